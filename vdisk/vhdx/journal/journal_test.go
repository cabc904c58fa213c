package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/overlay"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

func testGUID() layout.GUID { return layout.GUID{0xA, 0xB, 0xC} }

// sectors are n sectors of random bytes.
func sectors(n int) []Sector {
	rnd := rand.NewChaCha8([32]byte{byte(n)})
	out := make([]Sector, n)
	for i := range out {
		out[i] = Sector{Offset: int64(n-i) * 3 * layout.SectorSize, Bytes: make([]byte, layout.SectorSize)}
		_, _ = rnd.Read(out[i].Bytes) // never fails
	}
	return out
}

// ringOf writes entries one after another into a ring from start on, with wrap.
func ringOf(size, start int, entries ...Entry) []byte {
	ring := make([]byte, size)
	at := start
	for _, e := range entries {
		for _, c := range e.Bytes() {
			ring[at%size] = c
			at++
		}
	}
	return ring
}

// What is written is found again, whatever the number of sectors.
func TestEntry(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 254, 255, 300} {
		all := sectors(n)
		e := Entry{GUID: testGUID(), Sequence: 7<<32 + 1, Tail: 64 << 10, Flushed: 4 << 20, Last: 5 << 20, Sectors: all}
		if got := len(e.Bytes()); got != Size(n) {
			t.Errorf("%d sectors: %d bytes, want %d", n, got, Size(n))
		}
		active, err := newRing(ringOf(4<<20, 64<<10, e), testGUID()).active()
		if err != nil || len(active) != 1 {
			t.Fatalf("%d sectors: %d entries, %v", n, len(active), err)
		}
		if a := active[0]; a.sequence != e.Sequence || a.flushed != e.Flushed || a.last != e.Last {
			t.Errorf("%d sectors: %+v", n, a)
		}
		patches, err := active[0].patches(nil)
		if err != nil || len(patches) != n {
			t.Fatalf("%d sectors: %d patches, %v", n, len(patches), err)
		}
		for i, p := range patches {
			if p.Offset != all[i].Offset || !bytes.Equal(p.Data, all[i].Bytes) {
				t.Errorf("%d sectors: sector %d at %d differs", n, i, p.Offset)
			}
		}
	}
}

// A ring that is full of headers, each of which claims all of the ring, must
// not cost a checksum over the ring for each.
func TestWorkIsBounded(t *testing.T) {
	full := make([]byte, layout.MaxLogSize)
	for at := 0; at < len(full); at += int(layout.SectorSize) {
		h := Entry{Sequence: 1, GUID: testGUID()}.Bytes()
		binary.LittleEndian.PutUint32(h[8:], uint32(len(full)))
		copy(full[at:], h[:64])
	}
	if _, err := newRing(full, testGUID()).active(); !errors.Is(err, vdisk.ErrFormat) {
		t.Errorf("search: %v", err)
	}
}

// FuzzLog searches a ring made of the given entries' headers for what to
// replay; no ring may take longer than a few passes over it.
func FuzzLog(f *testing.F) {
	f.Add(ringOf(64<<10, 0, Entry{Sequence: 5, Sectors: sectors(1)}), uint16(0))
	f.Add(ringOf(64<<10, 60<<10, Entry{Sequence: 5, Tail: 60 << 10}, Entry{Sequence: 6, Tail: 60 << 10, Sectors: sectors(2)}), uint16(1))
	zero := Entry{Sequence: 5, Sectors: sectors(1)}.Bytes()
	copy(zero[64:], "zero")
	f.Add(zero, uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, repair uint16) {
		ringBytes := append(b, make([]byte, 64<<10)...)[:64<<10]
		for i := range 16 { // make the checksums of the chosen sectors' entries right
			e := ringBytes[i*int(layout.SectorSize):]
			if n := int(binary.LittleEndian.Uint32(e[8:])); repair&(1<<i) != 0 && n >= 64 && n <= len(e) {
				binary.LittleEndian.PutUint32(e[4:], layout.Checksum(e[:n]))
			}
		}
		active, err := newRing(ringBytes, layout.GUID{}).active()
		if err != nil {
			return
		}
		var changes []overlay.Patch
		for _, e := range active {
			if changes, err = e.patches(changes); err != nil {
				return
			}
		}
		v := overlay.New(vdisktest.NewSparse(layout.MiB), 0, changes)
		_, _ = v.ReadAt(make([]byte, 8192), 4000)
	})
}

// zeroing is a ring that one entry fills, with n ranges to zero, as far apart as they
// need to be to stay by themselves.
func zeroing(n int) []byte {
	b := make([]byte, layout.MaxLogSize)
	le := binary.LittleEndian
	copy(b, "loge")
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint64(b[16:], 1)
	le.PutUint32(b[24:], uint32(n))
	id := testGUID()
	copy(b[32:], id[:])
	for i := range n {
		d := b[entryHeaderSize+i*descriptorSize:]
		copy(d, "zero")
		le.PutUint64(d[8:], uint64(layout.SectorSize))
		le.PutUint64(d[16:], uint64(layout.MiB+int64(i)*2*layout.SectorSize))
		le.PutUint64(d[24:], 1)
	}
	le.PutUint32(b[4:], layout.Checksum(b))
	return b
}

// The largest log with the most changes costs what the package says, and one with
// more is refused for not much more than its own size.
func TestMemoryIsBounded(t *testing.T) {
	for _, c := range []struct {
		changes int
		want    error
	}{{MaxChanges, nil}, {2<<20 - 2, vdisk.ErrUnsupported}} {
		file := vdisktest.NewSparse(layout.MiB + layout.MaxLogSize)
		if _, err := file.WriteAt(zeroing(c.changes), layout.MiB); err != nil {
			t.Fatal(err)
		}
		h := layout.Header{LogGUID: testGUID(), LogOffset: layout.MiB, LogLength: layout.MaxLogSize}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		changes, err := Read(file, h)
		if !errors.Is(err, c.want) {
			t.Fatalf("%d changes: %v, want %v", c.changes, err, c.want)
		}
		v := overlay.New(file, changes.Size, changes.Patches)
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%d changes: %d MiB allocated", c.changes, used>>20)
		if used > 128<<20 {
			t.Errorf("%d changes: %d MiB allocated", c.changes, used>>20)
		}
		if n := len(v.Patches()); c.want == nil && n != c.changes {
			t.Errorf("%d changes became %d", c.changes, n)
		}
	}
}
