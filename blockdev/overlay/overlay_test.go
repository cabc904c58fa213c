package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
)

const diskSize = 3<<20 + 5*512 // ends inside a unit

// beneath is a disk that is told apart by its bytes, and counts what it is asked for.
type beneath struct{ asked int64 }

func (b *beneath) ReadAt(p []byte, off int64) (int, error) {
	b.asked += int64(len(p))
	return copy(p, beneathBytes()[off:]), nil
}

var beneathBytes = sync.OnceValue(func() []byte {
	b := make([]byte, diskSize)
	for at := range b {
		b[at] = byte(at>>9) ^ byte(at) | 1
	}
	return b
})

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// model is what an overlay should be: its bytes, and who has written each sector.
type model struct {
	bytes []byte
	kind  []vdisk.Kind
}

func newModel() *model {
	m := &model{bytes: slices.Clone(beneathBytes()), kind: make([]vdisk.Kind, diskSize/512)}
	for i := range m.kind {
		m.kind[i] = vdisk.Inherited
	}
	return m
}

func (m *model) set(off int64, p []byte, kind vdisk.Kind) {
	copy(m.bytes[off:], p)
	for s := off / 512; s < (off+int64(len(p)))/512; s++ {
		m.kind[s] = kind
	}
}

// place picks whole sectors.
func place(r *rand.Rand, most int64) (off, n int64) {
	n = (1 + r.Int64N(most/512)) * 512
	if r.IntN(2) == 0 {
		n = (1 + r.Int64N(max(1, most/4096))) * 4096
	}
	off = r.Int64N(diskSize/512) * 512
	if r.IntN(2) == 0 {
		off = off / 4096 * 4096
	}
	return off, min(n, diskSize-off)
}

func (m *model) check(t *testing.T, o *Overlay) {
	t.Helper()
	got := make([]byte, diskSize)
	must(t, o.ReadAt(got, 0, &beneath{}))
	if !bytes.Equal(got, m.bytes) {
		for i := range got {
			if got[i] != m.bytes[i] {
				t.Fatalf("byte %d is %d, not %d", i, got[i], m.bytes[i])
			}
		}
	}
	at := int64(0)
	for e, err := range o.Written(t.Context(), 0, diskSize) {
		must(t, err)
		if e.Offset != at || e.Length <= 0 {
			t.Fatalf("extent %+v where one at %d was due", e, at)
		}
		for s := at / 512; s < e.End()/512; s++ {
			// Zeros may be kept as data, where a unit has other sectors too.
			if k := m.kind[s]; e.Kind != k && !(k == vdisk.Zero && e.Kind == vdisk.Data) {
				t.Fatalf("sector %d is %v, not %v", s, e.Kind, k)
			}
		}
		at = e.End()
	}
	if at != diskSize {
		t.Fatalf("extents end at %d", at)
	}
}

// Whatever is written, the overlay is what a plain disk would be, and so it is when opened again.
func TestModel(t *testing.T) {
	folder := t.TempDir()
	opts := Options{Size: diskSize, Over: "a"}
	o, err := Create(folder, opts)
	must(t, err)
	m, r, noise := newModel(), rand.New(rand.NewPCG(1, 2)), rand.NewChaCha8([32]byte{3})
	for n := range 2000 {
		off, size := place(r, 1+128<<10)
		if n%100 == 99 {
			off, size = place(r, 2<<20)
		}
		switch r.IntN(12) {
		case 0:
			must(t, o.WriteZeroes(off, size))
			m.set(off, make([]byte, size), vdisk.Zero)
		case 1:
			must(t, o.Flush())
		case 2:
			p := make([]byte, min(size+int64(r.IntN(500)), diskSize-off))
			must(t, o.ReadAt(p, off, &beneath{}))
			if !bytes.Equal(p, m.bytes[off:off+int64(len(p))]) {
				t.Fatalf("step %d: read %d at %d: other bytes", n, len(p), off)
			}
		default:
			p := make([]byte, size)
			_, _ = noise.Read(p)
			got, err := o.WriteAt(p, off)
			if must(t, err); got != len(p) {
				t.Fatalf("%d of %d written", got, len(p))
			}
			m.set(off, p, vdisk.Data)
		}
		if n%500 == 499 {
			m.check(t, o)
			must(t, o.Close())
			o, err = Open(folder, opts)
			must(t, err)
			m.check(t, o)
		}
	}
	// What was given back is used again: without that the file would have 256 MB.
	if s := o.Stats(); s.Data > 5*diskSize {
		t.Errorf("%+v", s)
	}
	if _, err := Open(folder, opts); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	must(t, o.Close())
	if _, err := o.WriteAt(make([]byte, 512), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("written after closing: %v", err)
	}
	if _, err := Open(folder, Options{Size: diskSize, Over: "b"}); !errors.Is(err, ErrOther) {
		t.Errorf("over another disk: %v", err)
	}
	if _, err := Create(folder, opts); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
}

// A short write asks nobody, and a read asks only for what is missing.
func TestAsksForLittle(t *testing.T) {
	o, err := Create(t.TempDir(), Options{Size: 1 << 20})
	must(t, err)
	defer o.Close()
	_, err = o.WriteAt(make([]byte, 512), 4096+512)
	must(t, err)
	b := &beneath{}
	must(t, o.ReadAt(make([]byte, 8192), 0, b))
	if b.asked != 8192-512 {
		t.Errorf("asked for %d bytes", b.asked)
	}
	_, err = o.WriteAt(make([]byte, 4096), 100)
	if err == nil {
		t.Error("a write inside a sector")
	}
}

// All of a huge disk is trimmed with one record.
func TestHuge(t *testing.T) {
	const size = 16 << 40
	o, err := Create(t.TempDir(), Options{Size: size})
	must(t, err)
	defer o.Close()
	for range 100 {
		_, err = o.WriteAt(make([]byte, 4096), rand.Int64N(size/4096)*4096)
		must(t, err)
	}
	must(t, o.WriteZeroes(512, size-1024))
	if s := o.Stats(); s.Runs != 3 || s.Written != 8192 {
		t.Errorf("%+v", s)
	}
}

// disks is an overlay on three files that lose power together.
type disks struct {
	data     *crashfile.File
	journals [2]*crashfile.File
}

func newDisks() disks {
	return disks{crashfile.New(), [2]*crashfile.File{crashfile.New(), crashfile.New()}}
}

func (d disks) over() *Overlay {
	o, err := openFiles("", Options{Size: diskSize, Seam: &Seam{Data: d.data, Journals: [2]vdisk.File{d.journals[0], d.journals[1]}}}, 0)
	if err != nil {
		panic(err)
	}
	return o
}

func (d disks) crash(m crashfile.Mode, seed uint64) disks {
	return disks{d.data.Crash(m, seed), [2]*crashfile.File{d.journals[0].Crash(m, seed+1), d.journals[1].Crash(m, seed+2)}}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// A flipped bit in what was durable is damage, and never an older disk.
func TestFlippedJournal(t *testing.T) {
	folder := t.TempDir()
	o, err := Create(folder, Options{Size: 1 << 20})
	must(t, err)
	for n := range int64(20) {
		_, err = o.WriteAt(bytes.Repeat([]byte{byte(n)}, 4096), n*8192)
		must(t, err)
		must(t, o.Flush())
	}
	must(t, o.Close())
	path := filepath.Join(folder, "journal.0")
	good, err := os.ReadFile(path)
	must(t, err)
	// The last record is the last marker: without it one flush less is known, nothing else.
	for at := 0; at < len(good)-recordSize; at += 13 {
		if at > 60 && at < headerSize-4 {
			continue // all zeros, under the header's sum; a sample of it is enough
		}
		bad := slices.Clone(good)
		bad[at] ^= 0x10
		must(t, os.WriteFile(path, bad, 0o600))
		x, err := Open(folder, Options{Size: 1 << 20})
		if err == nil {
			_ = x.Close()
		}
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("bit in byte %d flipped: %v", at, err)
		}
	}
}

// Journals are foreign bytes.
func FuzzOpen(f *testing.F) {
	d := newDisks()
	o := d.over()
	if err := o.begin(header{epoch: 1, size: diskSize, name: identity("")}); err != nil {
		f.Fatal(err)
	}
	_, _ = o.WriteAt(make([]byte, 9*512), 512)
	_ = o.WriteZeroes(0, 1<<20)
	_ = o.Flush()
	f.Add(d.data.Bytes(), d.journals[0].Bytes()[headerSize:], true)
	f.Fuzz(func(t *testing.T, data, journal []byte, mend bool) {
		h := header{epoch: 1, size: diskSize, name: identity("")}
		if mend { // sums, so that what they protect is met
			for at := 0; at+recordSize <= len(journal); at += recordSize {
				r, _ := decode(journal[at:], 1)
				r = record{kind: journal[at+4], mask: journal[at+5], seq: uint64(at/recordSize) + 1, unit: int64(binary.LittleEndian.Uint64(journal[at+16:])),
					count: int64(binary.LittleEndian.Uint64(journal[at+24:])), slot: int64(binary.LittleEndian.Uint64(journal[at+32:])), sum: r.sum}
				r.encode(journal[at:], 1)
			}
		}
		d := newDisks()
		_, _ = d.data.WriteAt(data, 0)
		_, _ = d.journals[0].WriteAt(append(h.encode(), journal...), 0)
		o := d.over()
		if o.recover(identity("")) != nil {
			return
		}
		if o.ReadAt(make([]byte, diskSize), 0, zeros{}) != nil {
			return // slots beyond the end of the file
		}
		_, err := o.WriteAt(make([]byte, 4096), 0)
		must(t, err)
		must(t, o.Flush())
	})
}

// BenchmarkWrite writes blocks at random places and flushes after each 32.
func BenchmarkWrite(b *testing.B) {
	const size = 8 << 30
	o, err := Create(b.TempDir(), Options{Size: size})
	must(b, err)
	defer o.Close()
	p := bytes.Repeat([]byte{1, 2, 3, 4}, 1024)
	b.SetBytes(4096)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := o.WriteAt(p, rand.Int64N(size/4096)*4096); err != nil {
			b.Fatal(err)
		}
		if n%32 == 31 {
			must(b, o.Flush())
		}
	}
}

// The form on disk: docs/format/overlay.md.
func TestForm(t *testing.T) {
	h := header{epoch: 0x0102030405060708, size: 1 << 40, name: identity("point/disk"), lines: 0x0a0b0c}
	b := h.encode()
	if len(b) != 4096 || string(b[:8]) != "MLRCOVL1" || b[8] != 8 || b[15] != 1 || b[21] != 1 || b[56] != 0x0c || b[58] != 0x0a || binary.LittleEndian.Uint32(b[4092:]) != 0x2749d0b0 {
		t.Errorf("header %x ... %x", b[:64], b[4092:])
	}
	r := record{kind: kindData, mask: 0x81, seq: 7, unit: 0x1122334455, count: 1, slot: 9, sum: 0xaabbccdd}
	line := make([]byte, recordSize)
	r.encode(line, 0x0102030405060708)
	if got := fmt.Sprintf("%x", line); got != "80246c2b018100000700000000000000554433221100000001000000000000000900000000000000ddccbbaa08070605" {
		t.Errorf("record %s", got)
	}
	back, ok := decode(line, 0x0102030405060708)
	if !ok || back != r {
		t.Errorf("decoded %+v, %v", back, ok)
	}
}
