package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/raw"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
)

// sametree ONE OTHER: both folders have the same folders and files, byte for byte.
func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: sametree one other")
	}
	one, other := listing(ts, args[0]), listing(ts, args[1])
	differ := ""
	for name, content := range one {
		if there, ok := other[name]; !ok || there != content {
			differ += " " + name
		}
	}
	for name := range other {
		if _, ok := one[name]; !ok {
			differ += " " + name
		}
	}
	if (differ == "") == neg || len(one) == 0 {
		ts.Fatalf("%d and %d entries; they differ in%s", len(one), len(other), differ)
	}
}

func listing(ts *testscript.TestScript, dir string) map[string]string {
	out, root := map[string]string{}, ts.MkAbs(dir)
	ts.Check(filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil && e.IsDir() {
			out[rel+"/"] = ""
			return nil
		}
		b, readErr := os.ReadFile(path)
		out[rel] = string(b)
		return errors.Join(err, readErr)
	}))
	return out
}

// shows IMAGE RAW: the image, with its parents in the folder two above, shows what
// the raw image holds.
func shows(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: shows image raw")
	}
	path := ts.MkAbs(args[0])
	m, err := open.Path(path, open.Options{Parents: []string{filepath.Dir(filepath.Dir(path))}})
	ts.Check(err)
	defer m.Close()
	got, err := io.ReadAll(io.NewSectionReader(m, 0, m.Size()))
	ts.Check(err)
	want, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(got, want) == neg {
		ts.Fatalf("%s shows %d bytes, %s has %d; equal is %v", args[0], len(got), args[1], len(want), !neg)
	}
}

// guestwrites IMAGE OFFSET TEXT: writes into a VHDX as a running guest does.
func guestWrites(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: guestwrites image offset text")
	}
	at, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	path := ts.MkAbs(args[0])
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	file, err := raw.Open(f)
	ts.Check(err)
	parents := open.FindParents(path, filepath.Dir(filepath.Dir(path)))
	defer parents.Close()
	d, err := inplace.Open(context.Background(), file, inplace.Durable{File: f}, inplace.Options{Find: parents.Find})
	ts.Check(err)
	_, err = d.WriteAt([]byte(args[2]), at)
	ts.Check(errors.Join(err, d.Close()))
}

// atmost KEY N: that member of the JSON object in the last line of stdout is a number and
// not larger.
func atMost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: atmost key n")
	}
	limit, err := strconv.ParseFloat(args[1], 64)
	ts.Check(err)
	got, ok := lastObject(ts)[args[0]].(float64)
	if !ok || got > limit {
		ts.Fatalf("%s is %s, want at most %s", args[0], fmt.Sprint(lastObject(ts)[args[0]]), args[1])
	}
}

// cut FILE BYTES: leaves only the first bytes of a file.
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut file bytes")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}
