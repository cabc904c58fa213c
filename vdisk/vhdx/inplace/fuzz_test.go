package inplace_test

import (
	"encoding/binary"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// FuzzWrite opens a changed image for writing, writes, closes, and reads it: what
// opens for writing is sound afterwards, and what the strict reader had nothing
// against, it has nothing against then.
func FuzzWrite(f *testing.F) {
	parent := vdisktest.FromBytes([]byte("the parent"))
	parent.Truncate(8 * mib)
	base := vdisktest.NewSparse(8 * mib)
	for b := range int64(4) {
		_, _ = base.WriteAt([]byte("base"), (2*b+1)*mib)
	}
	entries := func(list ...uint64) (b []byte) {
		for _, e := range list {
			b = binary.LittleEndian.AppendUint64(b, e)
		}
		return b
	}
	entry := func(last, at int64, sector []byte) []byte {
		e := journal.Entry{GUID: layout.GUID{1}, Sequence: 1, Flushed: 4 * mib, Last: last,
			Sectors: []journal.Sector{{Offset: at, Bytes: append(sector, make([]byte, 4096)...)[:4096]}}}
		return e.Bytes()
	}
	f.Add(uint8(0), []byte{}, []byte{}, []byte{}, int64(0), int64(1))
	f.Add(uint8(1), []byte{}, entries(4*mib|layout.FullyPresent), []byte{0xFF}, int64(3*mib-1), int64(mib+2))
	f.Add(uint8(2), []byte("loge"), entries(4*mib|layout.PartiallyPresent), []byte{}, int64(100), int64(9))
	// Of the dynamic image blocks 1, 3, 5 and 7 lie at 4 MiB and behind it.
	f.Add(uint8(0), []byte{}, entries(0, 4*mib|layout.Unmapped, 0, 5*mib|layout.Undefined, 0, 6*mib|layout.UnmappedOld), []byte{}, int64(mib-5), int64(2*mib))
	f.Add(uint8(0), []byte{}, entries(4*mib|layout.Unmapped, 4*mib|layout.FullyPresent, layout.Zero, 9*mib|layout.Undefined), []byte{}, int64(0), int64(3*mib-1))
	f.Add(uint8(0), entry(12*mib, 3*mib, entries(8*mib|layout.FullyPresent, 4*mib|layout.FullyPresent, 9*mib|layout.Unmapped)), []byte{}, []byte{}, int64(2*mib), int64(9))
	f.Add(uint8(1), entry(4*mib, 2*mib, []byte("metadata")), []byte{}, []byte{}, int64(0), int64(9))
	f.Add(uint8(0), entry(100<<40, 64<<10, nil), []byte{}, []byte{}, int64(0), int64(9))
	f.Add(uint8(4), []byte{}, []byte{}, []byte{}, int64(mib), int64(2*mib))
	f.Fuzz(func(t *testing.T, kind uint8, log, bat, meta []byte, off, n int64) {
		file := crashfile.New()
		o := create.Options{BlockSize: mib, Fixed: kind%8 == 4}
		var err error
		if kind%2 == 1 {
			id := "01234567-89ab-cdef-0123-456789abcdef"
			err = create.Child(t.Context(), file, create.Nothing(8*mib), create.Parent{
				Info: vdisk.Info{Format: "vhdx", LogicalSector: 512, DiskID: id, Link: id}, Relative: "x"}, o)
		} else {
			err = create.Disk(t.Context(), file, base, o)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = file.WriteAt(bat[:min(len(bat), 4096)], 3*mib)
		_, _ = file.WriteAt(meta[:min(len(meta), 4096)], 2*mib+64<<10)
		if len(log) >= 64 {
			e := append(log, make([]byte, 8192)...)[:8192]
			binary.LittleEndian.PutUint32(e[8:], uint32(len(e)))
			binary.LittleEndian.PutUint32(e[4:], layout.Checksum(e))
			_, _ = file.WriteAt(e, mib)
			h := layout.Header{Sequence: 9, LogGUID: layout.GUID(e[32:48]), Version: 1, LogOffset: mib, LogLength: mib}
			_, _ = file.WriteAt(h.Bytes(), layout.HeaderAt1)
		}
		find := func(vdisk.Parent) (vdisk.Image, error) { return parent, nil }
		_, wrong := strict.Open(file, file.Size(), parent)
		d, err := inplace.Open(t.Context(), file, file, inplace.Options{Find: find})
		if err != nil {
			return
		}
		off, n = max(0, off)%max(1, d.Size()), max(0, n)%(3*mib)
		n = min(n, d.Size()-off)
		_, werr := d.WriteAt(make([]byte, n), off)
		zerr := d.Zero(off, n)
		if err := d.Close(); err != nil || werr != nil || zerr != nil {
			t.Fatalf("%v, %v, %v", werr, zerr, err)
		}
		m, err := vhdx.Open(file, find)
		if err == nil {
			err = m.Check(t.Context())
		}
		if err != nil {
			t.Fatalf("what was written to does not open: %v", err)
		}
		if _, err := strict.Open(file, file.Size(), parent); wrong == nil && err != nil {
			t.Fatalf("the strict reader: %v", err)
		}
	})
}
