package toolarge

import (
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
)

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
