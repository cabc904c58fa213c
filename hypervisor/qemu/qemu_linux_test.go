package qemu_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
	"github.com/millrace-backup/millrace/id"
)

const size = 64 << 20

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// job is a driver in the name of a job of its own.
type job struct {
	*qemu.Driver
	t testing.TB
	o qemu.Options
}

var vault = id.Vault{1, 2, 3}

func newJob(t testing.TB, vm *qemutest.VM, state string, change ...func(*qemu.Options)) *job {
	o := qemu.Options{Vault: vault, Job: id.NewJob(), Folder: t.TempDir(), State: state}
	for _, c := range change {
		c(&o)
	}
	return &job{qemu.New(vm.Socket, o), t, o}
}

func (j *job) inspect() hypervisor.Guest {
	j.t.Helper()
	guests, err := j.Inspect(j.t.Context())
	if err != nil {
		j.t.Fatal(err)
	}
	return guests[0]
}

func (j *job) freeze(g hypervisor.Guest) hypervisor.Frozen {
	j.t.Helper()
	f, err := j.Freeze(j.t.Context(), g, hypervisor.AppPreferred)
	if err != nil {
		j.t.Fatal(err)
	}
	return f
}

func (j *job) read(d hypervisor.Disk) []byte {
	j.t.Helper()
	im, err := j.Open(j.t.Context(), d)
	if err != nil {
		j.t.Fatal(err)
	}
	defer im.Close()
	b := make([]byte, im.Size())
	if _, err := im.ReadAt(b, 0); err != nil {
		j.t.Fatal(err)
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestIncrementOnQEMU: what is read is the instant, what is listed as changed is what
// was written since the point before, and nothing of it is left in QEMU but one bitmap.
func TestIncrementOnQEMU(t *testing.T) {
	first := noise(4<<20, 1)
	a, b := qemutest.Image(t, "qcow2", size, first), qemutest.Image(t, "raw", size, first)
	vm := qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: a, Format: "qcow2"}, {Name: "b", Path: b, Format: "raw"}})
	want := append(bytes.Clone(first), make([]byte, size-len(first))...)
	state := t.TempDir()
	tokens := [][]byte{nil, nil}
	for round := range 3 {
		j := newJob(t, vm, state)
		g := j.inspect()
		if len(g.Disks) != 2 || g.Disks[0].Key != "a" || g.Disks[1].Info.VirtualSize != size {
			t.Fatalf("inspected %+v", g.Disks)
		}
		for i := range g.Disks {
			g.Disks[i].Since = tokens[i]
		}
		f := j.freeze(g)
		at, change := int64(round+9)<<20, noise(10_000, byte(10+round))
		for _, drive := range []string{"a", "b"} { // after the instant
			must(t, vm.Write(drive, at, change))
			must(t, vm.Write(drive, 0, change))
		}
		for i, d := range g.Disks {
			if !bytes.Equal(j.read(d), want) {
				t.Fatalf("round %d: disk %s does not show the instant", round, d.Key)
			}
			tracked := f.Tracking[i]
			if (tracked.Granularity > 0) != (round > 0) || len(tracked.Token) == 0 {
				t.Fatalf("round %d: disk %s is tracked as %+v", round, d.Key, tracked)
			}
			if round > 0 {
				var got []hypervisor.Range
				for r, err := range j.Changes(t.Context(), d) {
					must(t, err)
					got = append(got, r)
				}
				want := []hypervisor.Range{{Offset: 0, Length: 12 << 10}, {Offset: at - 1<<20, Length: 12 << 10}}
				if !slices.Equal(got, want) {
					t.Fatalf("round %d: disk %s: changed %v, want %v", round, d.Key, got, want)
				}
			}
			tokens[i] = tracked.Token
		}
		must(t, f.Changed(t.Context()))
		copy(want[at:], change)
		copy(want, change)
		must(t, f.Release(t.Context(), true))
		if left := vm.Left(); len(left) > 0 {
			t.Fatalf("round %d: left in QEMU: %v", round, left)
		}
		if maps := vm.Bitmaps(); len(maps) != 2 {
			t.Fatalf("round %d: bitmaps %v", round, maps)
		}
		if f.Consistency != hypervisor.CrashConsistent || !strings.Contains(f.Reason, "no port for an agent") {
			t.Errorf("consistency %s: %s", f.Consistency, f.Reason)
		}
		t.Logf("stood %v", f.Stood)
	}
}
