package main

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
)

// hyperv DIR WANT YEAR: makes the tree of drivertest.Branched in DIR, and WANT/IMAGE.raw
// with what a guest sees of each of its images.
func hyperv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: hyperv dir want year")
	}
	year, err := strconv.Atoi(args[2])
	ts.Check(err)
	seen, err := drivertest.Branched(ts.MkAbs(args[0]), year)
	ts.Check(err)
	ts.Check(os.Mkdir(ts.MkAbs(args[1]), 0o700))
	for name, disk := range seen {
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[1]), name+".raw"), disk, 0o600))
	}
}
