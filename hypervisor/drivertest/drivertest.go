// Package drivertest holds a hypervisor driver to the promises of package
// hypervisor.
//
// Call [Run] from the driver's test with a function that makes a [Subject]: a
// driver before a guest whose disks' contents are known. It is called for each
// test, because the tests change the guest behind the driver's back.
//
// It makes what drivers read, too: images in layers ([Checkpoint], [VHDLayer],
// [VHDXLayer]), configurations of Hyper-V ([XML], [VMCX]), and a whole export ([Branched]).
package drivertest

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// Driver is what a driver has to be.
type Driver interface {
	hypervisor.Inspector
	hypervisor.Freezer
	hypervisor.Opener
}

// Subject is a driver before at least one guest.
type Subject struct {
	Driver Driver
	// Again returns another driver for the same source, as another process
	// would make it.
	Again func() Driver
	// Want has the bytes of every disk of the first guest, by its key.
	Want map[string]vdisk.Image
	// Write changes a disk as the guest would, while it runs.
	Write func(key string, off int64, b []byte) error
	// Isolated says that a freeze shuts later writes out, as a snapshot does;
	// without it they must be noticed.
	Isolated bool
}

// Run holds the driver to every promise.
func Run(t *testing.T, subject func(testing.TB) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"inspecting again gives the same", testInspect},
		{"disks have their bytes", testOpen},
		{"a still guest is unchanged", testStill},
		{"a write is shut out or noticed", testWrite},
		{"a freeze is taken up again", testResume},
		{"a write between processes is shut out or noticed", testResumeChanged},
		{"a freeze can be released and made again", testRelease},
		{"foreign records are refused", testRecords},
		{"a missing disk is named", testMissing},
		{"an ended context ends the work", testCancel},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, subject(t)) })
	}
}

func inspect(t *testing.T, d hypervisor.Inspector) hypervisor.Guest {
	t.Helper()
	guests, err := d.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(guests) == 0 {
		t.Fatal("no guest")
	}
	return guests[0]
}

func freeze(t *testing.T, s Subject, g hypervisor.Guest) hypervisor.Frozen {
	t.Helper()
	f, err := s.Driver.Freeze(t.Context(), g, hypervisor.AppPreferred)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Release(context.Background(), false) })
	return f
}

func testInspect(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	if again := inspect(t, s.Driver); !reflect.DeepEqual(g, again) {
		t.Errorf("second time\n%+v\nfirst\n%+v", again, g)
	}
	if again := inspect(t, s.Again()); !reflect.DeepEqual(g, again) {
		t.Errorf("another driver\n%+v\nfirst\n%+v", again, g)
	}
	if g.ID.IsZero() || g.Name == "" || g.Driver == "" || g.Source == "" {
		t.Errorf("guest lacks something: %+v", g)
	}
	keys, ids := map[string]bool{}, map[any]bool{}
	for n, d := range g.Disks {
		if n > 0 && g.Disks[n-1].Carried && !d.Carried || d.Carried && (d.File == "" || d.Info.Format != "raw") {
			t.Errorf("carried files come last, are raw and have a path: %+v", d)
		}
		if d.ID.IsZero() || d.Key == "" || d.Path == "" || d.Info.Format == "" || d.Info.VirtualSize < 0 {
			t.Errorf("disk lacks something: %+v", d)
		}
		if keys[d.Key] || ids[d.ID] {
			t.Errorf("disk %s is there twice", d.Key)
		}
		keys[d.Key], ids[d.ID] = true, true
	}
	for _, u := range g.Unprotected {
		if u.Key == "" || u.Reason == "" || keys[u.Key] {
			t.Errorf("unprotected %+v", u)
		}
	}
	if len(g.Disks) != len(s.Want) {
		t.Errorf("%d disks, want %d", len(g.Disks), len(s.Want))
	}
}

func testOpen(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	freeze(t, s, g)
	for _, disk := range g.Disks {
		image, err := s.Again().Open(t.Context(), disk)
		if err != nil {
			t.Fatal(err)
		}
		if image.Size() != disk.Info.VirtualSize {
			t.Errorf("disk %s has %d bytes, inspected %d", disk.Key, image.Size(), disk.Info.VirtualSize)
		}
		t.Run(disk.Key, func(t *testing.T) { vdisktest.Run(t, image, s.Want[disk.Key]) })
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	}
}

func testStill(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	f := freeze(t, s, g)
	switch f.Consistency {
	case hypervisor.Offline, hypervisor.AppConsistent, hypervisor.FSConsistent, hypervisor.CrashConsistent:
	default:
		t.Errorf("consistency %q", f.Consistency)
	}
	if f.Method == "" || f.RecheckPercent < 0 || f.RecheckPercent == 0 && !s.Isolated || f.RecheckPercent > 100 || len(f.Record()) == 0 {
		t.Errorf("frozen %+v with a record of %d bytes", f, len(f.Record()))
	}
	record := string(f.Record())
	for _, disk := range g.Disks {
		image, err := s.Driver.Open(t.Context(), disk)
		if err != nil {
			t.Fatal(err)
		}
		if err := vdisktest.Equal(image, s.Want[disk.Key], 0, min(image.Size(), 16<<20)); err != nil {
			t.Error(err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Changed(t.Context()); err != nil {
			t.Errorf("reading disk %s changed it: %v", disk.Key, err)
		}
	}
	if string(f.Record()) != record {
		t.Error("the record has changed")
	}
}

// write changes a byte of the guest's last disk.
func write(t *testing.T, s Subject, g hypervisor.Guest) {
	t.Helper()
	disk := g.Disks[len(g.Disks)-1]
	if err := s.Write(disk.Key, disk.Info.VirtualSize/2, []byte{0x5A}); err != nil {
		t.Fatal(err)
	}
}

// judge looks at the outcome of Changed or Resume after a write.
func judge(t *testing.T, s Subject, g hypervisor.Guest, err error) {
	t.Helper()
	if !s.Isolated {
		if !errors.Is(err, hypervisor.ErrChanged) {
			t.Errorf("after a write: %v, want ErrChanged", err)
		}
		return
	}
	if err != nil {
		t.Fatalf("after a write that was shut out: %v", err)
	}
	for _, disk := range g.Disks {
		image, err := s.Driver.Open(t.Context(), disk)
		if err != nil {
			t.Fatal(err)
		}
		if err := vdisktest.Equal(image, s.Want[disk.Key], 0, image.Size()); err != nil {
			t.Errorf("disk %s shows a later write: %v", disk.Key, err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	}
}

func testWrite(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	f := freeze(t, s, g)
	write(t, s, g)
	judge(t, s, g, f.Changed(t.Context()))
	judge(t, s, g, f.Changed(t.Context())) // it stays so
}

func testResume(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	f := freeze(t, s, g)
	// The first holder is still there: of a process that was killed, nobody
	// knows how far it came.
	again, err := s.Again().Resume(t.Context(), g, f.Record())
	if err != nil {
		t.Fatal(err)
	}
	if again.Consistency != f.Consistency || again.Method != f.Method || again.RecheckPercent < f.RecheckPercent {
		t.Errorf("resumed %+v, was %+v", again, f)
	}
	if string(again.Record()) != string(f.Record()) {
		t.Error("resuming changed the record")
	}
	if err := again.Changed(t.Context()); err != nil {
		t.Error(err)
	}
	if err := again.Release(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func testResumeChanged(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	f := freeze(t, s, g)
	write(t, s, g)
	again, err := s.Again().Resume(t.Context(), g, f.Record())
	judge(t, s, g, err)
	if err == nil {
		_ = again.Release(t.Context(), false)
	}
}

func testRelease(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	f := freeze(t, s, g)
	for range 2 {
		if err := f.Release(t.Context(), false); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrReleased) {
		t.Errorf("changed after release: %v", err)
	}
	write(t, s, g) // nothing may hold it up
	f = freeze(t, s, inspect(t, s.Driver))
	if err := f.Changed(t.Context()); err != nil {
		t.Errorf("second freeze: %v", err)
	}
}

func testRecords(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	for _, record := range []string{"", "{}", "null", "[", `{"format":1}`, `{"format":99,"disks":[]}`} {
		if f, err := s.Driver.Resume(t.Context(), g, []byte(record)); err == nil {
			t.Errorf("record %q was taken", record)
			_ = f.Release(t.Context(), false)
		}
	}
}

func testMissing(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	disk := g.Disks[0]
	disk.Path += ".missing"
	disk.Key += ".missing"
	if _, err := s.Driver.Open(t.Context(), disk); err == nil {
		t.Error("a missing disk was opened")
	}
	g.Disks = append([]hypervisor.Disk{}, g.Disks...)
	g.Disks[0] = disk
	if f, err := s.Driver.Freeze(t.Context(), g, hypervisor.CrashOnly); err == nil {
		t.Error("a missing disk was frozen")
		_ = f.Release(t.Context(), false)
	}
}

func testCancel(t *testing.T, s Subject) {
	g := inspect(t, s.Driver)
	f := freeze(t, s, g)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Driver.Inspect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("inspect: %v", err)
	}
	if _, err := s.Driver.Open(ctx, g.Disks[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
	if err := f.Changed(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("changed: %v", err)
	}
	if err := f.Changed(t.Context()); err != nil {
		t.Errorf("a call that was cancelled counts as a change: %v", err)
	}
	if err := f.Release(ctx, false); err != nil {
		t.Errorf("release must work when all else is over: %v", err)
	}
	if _, err := s.Driver.Freeze(ctx, g, hypervisor.AppPreferred); !errors.Is(err, context.Canceled) {
		t.Errorf("freeze: %v", err)
	}
}
