package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

// profile writes what this process spends its processor time on to a file of the
// folder, until stop is called; without a folder it does nothing. Each process of a
// job writes its own file: go tool pprof adds up as many as it is given.
func profile(folder, name string) (stop func() error, err error) {
	if folder == "" {
		return func() error { return nil }, nil
	}
	path := filepath.Join(folder, fmt.Sprintf("%s-%d.pprof", name, os.Getpid()))
	f, err := os.Create(path)
	if err != nil {
		return nil, fault.At("profile", path, err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fault.At("profile", path, errors.Join(err, f.Close()))
	}
	return func() error {
		pprof.StopCPUProfile()
		return fault.At("profile", path, f.Close())
	}, nil
}
