package inplace_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/inplace"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

const mib = 1 << 20

// begin makes an image and opens it.
func begin(t *testing.T, from *vdisktest.Sparse, o create.Options) (*crashfile.File, *inplace.Disk) {
	t.Helper()
	f := crashfile.New()
	if err := create.Disk(t.Context(), f, from, o); err != nil {
		t.Fatal(err)
	}
	return f, reopen(t, f)
}

func reopen(t *testing.T, f *crashfile.File) *inplace.Disk {
	t.Helper()
	d, err := inplace.Open(t.Context(), f, f, inplace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sound lets both readers look at a file.
func sound(t *testing.T, f *crashfile.File) *strict.Disk {
	t.Helper()
	m, err := vhdx.Open(f, nil)
	if err == nil {
		err = m.Check(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	s, err := strict.Open(f, f.Size(), nil)
	if err != nil {
		t.Error(err)
	}
	return s
}

// scribble does the same random writes and zeros to a disk and to memory.
func scribble(t *testing.T, d *inplace.Disk, want *vdisktest.Sparse, seed uint64, from, to int64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		n := 1 + rnd.Int64N(100_000)
		off := from + rnd.Int64N(to-from)
		n = min(n, to-off)
		b := make([]byte, n)
		var err error
		if rnd.IntN(4) == 0 {
			n = min(n*20, to-off)
			b = make([]byte, n)
			err = d.Zero(off, n)
		} else {
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			_, err = d.WriteAt(b, off)
		}
		if err == nil && rnd.IntN(10) == 0 {
			err = d.Flush()
		}
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = want.WriteAt(b, off) // inside the size
	}
}

func TestDisk(t *testing.T) {
	for name, o := range map[string]create.Options{
		"dynamic": {BlockSize: mib}, "fixed": {BlockSize: 2 * mib, Fixed: true}, "4096": {LogicalSector: 4096, BlockSize: mib}, "32M": {},
	} {
		t.Run(name, func(t *testing.T) {
			want := vdisktest.NewSparse(20*mib + 4096)
			_, _ = want.WriteAt(bytes.Repeat([]byte{7}, 5000), 3*mib-100)
			f, d := begin(t, want, o)
			link := d.Info().Link
			var all sync.WaitGroup
			for i := range 4 { // callers in parallel, who meet in blocks but not in bytes
				all.Go(func() { scribble(t, d, want, uint64(i), int64(i)*(5*mib+7), (int64(i)+1)*(5*mib+7)) })
			}
			all.Wait()
			if link == d.Info().Link {
				t.Error("the link is still the same")
			}
			vdisktest.Run(t, d, want)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := d.WriteAt([]byte("x"), 0); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("write after closing: %v", err)
			}
			if s := sound(t, f); s.Dirty || !s.Whole {
				t.Error("the log was not emptied")
			}
			vdisktest.Run(t, reopen(t, f), want)
		})
	}
}

// More changed sectors of the table than go into one entry of the log, and more
// pages than are held.
func TestManyPages(t *testing.T) {
	const blocks = 400
	f, d := begin(t, vdisktest.NewSparse(blocks*600*mib), create.Options{BlockSize: mib})
	for i := range int64(blocks) {
		if _, err := d.WriteAt([]byte{1, byte(i), byte(i >> 8)}, i*600*mib); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	c := f.Crash(crashfile.Lost, 0)
	if s := sound(t, c); !s.Dirty {
		t.Error("no log to replay")
	}
	for _, again := range []bool{false, true} {
		m, err := vhdx.Open(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(blocks) {
			p := make([]byte, 3)
			if _, err := m.ReadAt(p, i*600*mib); err != nil || p[0] != 1 || p[1] != byte(i) || p[2] != byte(i>>8) {
				t.Fatalf("block %d has %v, %v", i, p, err)
			}
		}
		if !again {
			if err := reopen(t, c).Close(); err != nil {
				t.Fatal(err)
			}
			if s := sound(t, c); s.Dirty {
				t.Error("opening for writing did not replay")
			}
		}
	}
}

// The room of trimmed blocks is used again, and what lay there is not seen.
func TestRoomIsUsedAgain(t *testing.T) {
	f, d := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
	for round := range int64(5) {
		if _, err := d.WriteAt(bytes.Repeat([]byte{9}, mib), round%2*mib); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Flush(), d.Trim(round%2*mib, mib), d.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	size := f.Size()
	if _, err := d.WriteAt([]byte("x"), 5*mib+500); err != nil {
		t.Fatal(err)
	}
	if f.Size() != size || size > 6*mib {
		t.Errorf("file of %d bytes, then %d", size, f.Size())
	}
	want := vdisktest.NewSparse(8 * mib)
	_, _ = want.WriteAt([]byte("x"), 5*mib+500)
	if err := vdisktest.Equal(d, want, 0, 8*mib); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	sound(t, f)
}

// torn is a file whose syncs fail from some time on.
type torn struct {
	*crashfile.File
	left int
}

var errTorn = errors.New("sync fails")

func (f *torn) Sync() error {
	if f.left--; f.left < 0 {
		return errTorn
	}
	return f.File.Sync()
}

// After an error of the file nothing is written any more, and the file is valid.
func TestErrorsAreFinal(t *testing.T) {
	for left := range 12 {
		f, _ := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
		d, err := inplace.Open(t.Context(), f, &torn{f, left}, inplace.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		for i := range int64(3) {
			if _, err := d.WriteAt([]byte("x"), i*mib); err != nil {
				failed = err
			}
			failed = errors.Join(failed, d.Flush())
		}
		failed = errors.Join(failed, d.Close())
		if left < 9 && !errors.Is(failed, errTorn) {
			t.Errorf("%d syncs: %v", left, failed)
		}
		if errors.Is(failed, errTorn) {
			before := f.Effects()
			if _, err := d.WriteAt([]byte("y"), 7*mib); !errors.Is(err, errTorn) && !errors.Is(err, fs.ErrClosed) || f.Effects() != before {
				t.Errorf("%d syncs: write after the error: %v", left, err)
			}
		}
		sound(t, f)
	}
}

func TestRefused(t *testing.T) {
	f, d := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
	for _, r := range [][2]int64{{-1, 1}, {8 * mib, 1}, {8*mib - 1, 2}, {1 << 60, 1 << 60}} {
		if err := d.Zero(r[0], r[1]); err == nil {
			t.Errorf("zero %v", r)
		}
		if r[1] < mib {
			if n, err := d.WriteAt(make([]byte, r[1]), r[0]); n != 0 || err == nil {
				t.Errorf("write %v: %d, %v", r, n, err)
			}
		}
	}
	// Two blocks in one place: reading would do no harm, writing would.
	if _, err := d.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	e := make([]byte, 8)
	_, _ = f.ReadAt(e, 3*mib)
	_, _ = f.WriteAt(e, 3*mib+8)
	before := f.Effects()
	if _, err := inplace.Open(t.Context(), f, f, inplace.Options{}); !errors.Is(err, vdisk.ErrFormat) || f.Effects() != before {
		t.Errorf("overlapping blocks: %v", err)
	}
}

// TestAgainstQEMU writes into images that qemu-img made, and lets it compare.
func TestAgainstQEMU(t *testing.T) {
	for _, subformat := range []string{"dynamic", "fixed"} {
		dir := t.TempDir()
		image, flat := filepath.Join(dir, "disk.vhdx"), filepath.Join(dir, "disk.raw")
		vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M,subformat="+subformat, image, fmt.Sprint(20*mib+512))
		d, err := inplace.Path(t.Context(), image, inplace.Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := vdisktest.NewSparse(20*mib + 512)
		scribble(t, d, want, 5, 0, 20*mib+512)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, want.Size())
		_, _ = want.ReadAt(b, 0)
		if err := os.WriteFile(flat, b, 0o600); err != nil {
			t.Fatal(err)
		}
		vdisktest.Tool(t, "qemu-img", "check", "-q", "-f", "vhdx", image)
		vdisktest.Tool(t, "qemu-img", "compare", "-q", "-f", "vhdx", "-F", "raw", image, flat)
	}
}
