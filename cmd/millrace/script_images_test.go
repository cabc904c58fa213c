package main

import (
	"os"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
)

// vhdx RAW IMAGE [SECTOR]: makes a VHDX image of a raw one, with logical sectors of
// 512 bytes or as many as it is told.
func vhdx(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: vhdx raw image [sector]")
	}
	sector := 512
	if len(args) == 3 {
		var err error
		sector, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(drivertest.VHDXOfSector(ts.MkAbs(args[1]), b, sector))
}

// checkpoint PARENT CHILD MERGED: lays a differencing VHDX with parts of its own on
// a VHDX image; MERGED is a raw image of what the guest sees then.
func checkpoint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: checkpoint parent child merged")
	}
	merged, err := drivertest.Checkpoint(ts.MkAbs(args[1]), ts.MkAbs(args[0]), byte(len(args[1])))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), merged, 0o600))
}
