package toolarge

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
)

// A guest of too many disks too, however small they are.
func TestAGuestOfTooManyDisks(t *testing.T) {
	most := hypervisor.Guest{Name: "most", Disks: make([]hypervisor.Disk, hypervisor.MaxDisks)}
	more := hypervisor.Guest{Name: "more", Disks: make([]hypervisor.Disk, hypervisor.MaxDisks+1)}
	kept, failed := Split([]hypervisor.Guest{more, most}, 8<<20)
	if len(kept) != 1 || kept[0].Name != "most" || len(failed) != 1 || failed[0].Code != "too-large" || !strings.Contains(failed[0].Cause, "1001 disks") {
		t.Errorf("kept %d, left out %+v", len(kept), failed)
	}
}

// The point of a guest of the most disks can be read again, however many layers they have,
// and with as long a list of what is not in it as a driver makes.
func TestAPointOfTheMostDisks(t *testing.T) {
	layers := make([]events.TableRef, 8)
	p := events.PointCommitted{
		Disks:       slices.Repeat([]events.PointDisk{{Key: strings.Repeat("k", 200), File: strings.Repeat("f", 200), Extents: layers, Chunks: layers}}, hypervisor.MaxDisks),
		Unprotected: slices.Repeat([]events.Unprotected{{Key: strings.Repeat("k", 500), Reason: strings.Repeat("r", 500)}}, 1001),
		Config:      make([]byte, 1<<20),
	}
	b, err := events.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Unmarshal(b, &p); err != nil {
		t.Errorf("%d bytes: %v", len(b), err)
	}
}

// TestAGuestTooLargeForItsPlan is left out with a reason, and the others go on;
// larger parcels make it fit.
func TestAGuestTooLargeForItsPlan(t *testing.T) {
	guest := func(name string, sizes ...int64) hypervisor.Guest {
		g := hypervisor.Guest{Name: name, Source: "/" + name}
		for _, n := range sizes {
			g.Disks = append(g.Disks, hypervisor.Disk{Info: vdisk.Info{VirtualSize: n}})
		}
		return g
	}
	const tib = 1 << 40
	guests := []hypervisor.Guest{
		guest("full", 32*tib, 32*tib), guest("one byte more", 32*tib, 32*tib, 1), guest("16 PiB", 1<<54), guest("largest number", 1<<63-1), guest("small", 1),
	}
	for parcel, want := range map[int64]string{4 << 20: "full small", 32 << 20: "full one byte more small"} {
		kept, failed := Split(guests, parcel)
		var names []string
		for _, g := range kept {
			names = append(names, g.Name)
		}
		if got := strings.Join(names, " "); got != want || len(names)+len(failed) != len(guests) {
			t.Errorf("parcels of %d: %q go on, want %q; %d left out", parcel, got, want, len(failed))
		}
		for _, f := range failed {
			if f.Code != "too-large" || !strings.Contains(f.Remedy, "--parcel") {
				t.Errorf("left out with %+v", f)
			}
		}
	}
}
