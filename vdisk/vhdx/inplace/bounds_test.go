package inplace

import (
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// watched looks at the disk's memory whenever the file is synced.
type watched struct {
	*crashfile.File
	look func()
}

func (w watched) Sync() error {
	w.look()
	return w.File.Sync()
}

// However much is zeroed at once, only so many pages of the table wait for a flush.
func TestZeroOfMuch(t *testing.T) {
	const mib, size = 1 << 20, 2 << 40
	id := "01234567-89ab-cdef-0123-456789abcdef"
	f, parent := crashfile.New(), vdisktest.NewSparse(size)
	if err := create.Child(t.Context(), f, create.Nothing(size), create.Parent{
		Info: vdisk.Info{Format: "vhdx", LogicalSector: 512, DiskID: id, Link: id}, Relative: "x"}, create.Options{BlockSize: mib}); err != nil {
		t.Fatal(err)
	}
	peak, syncs := 0, 0
	var d *Disk
	w := watched{f, func() {
		if d != nil {
			syncs++
			peak = max(peak, len(d.table.dirty))
		}
	}}
	d, err := Open(t.Context(), f, w, Options{Find: func(vdisk.Parent) (vdisk.Image, error) { return parent, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Zero(0, size); err != nil {
		t.Fatal(err)
	}
	if peak > maxDirtyPages+1 || syncs < 4 {
		t.Errorf("%d pages waited, in %d syncs", peak, syncs)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestJoin(t *testing.T) {
	var list []vdisk.Extent
	for _, at := range []int64{5, 6, 7, 4, 3, 9, 10} {
		list = join(list, vdisk.Extent{Offset: at, Length: 1})
	}
	if len(list) != 2 || list[0] != (vdisk.Extent{Offset: 3, Length: 5}) || list[1] != (vdisk.Extent{Offset: 9, Length: 2}) {
		t.Errorf("%v", list)
	}
	for at := range int64(2 * maxFree) {
		list = join(list, vdisk.Extent{Offset: 100 + 2*at, Length: 1})
	}
	if len(list) != maxFree {
		t.Errorf("%d stretches", len(list))
	}
}
