package create_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

const kib, mib, tib, pageEntries, copyGrain, newBATAt = layout.KiB, layout.MiB, layout.TiB, layout.PageEntries, 4 * layout.KiB, 3 * layout.MiB

func random(seed uint64, n int64) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rnd.Read(b) // never fails
	return b
}

// scattered is a disk with data here and there: around the borders of blocks,
// chunks and BAT pages, at both ends, zeros that were written, and a block that
// is full of them.
func scattered(t testing.TB, size, block, sector int64) *vdisktest.Sparse {
	disk := vdisktest.NewSparse(size)
	ratio := sector << 23 / block
	put := func(off int64, b []byte) {
		if off < 0 || off >= size {
			return
		}
		if _, err := disk.WriteAt(b[:min(int64(len(b)), size-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	put(0, random(1, 700))
	put(size-100, random(2, 100))
	for i, n := range []int64{1, 2, 5, ratio, ratio + 1, 2 * ratio, pageEntries - 1, pageEntries, pageEntries + 3} {
		put(n*block-3000, random(uint64(10+i), 9000))
		put(n*block+300_000, random(uint64(30+i), 5000))
	}
	put(3*block, make([]byte, min(block, 4*mib)))
	put(3*block-5000, make([]byte, 5000))
	return disk
}

func createdCases() map[string]create.Options {
	return map[string]create.Options{
		"default":   {},
		"1M":        {BlockSize: mib},
		"2M":        {BlockSize: 2 * mib, PhysicalSector: 512},
		"256M":      {BlockSize: 256 * mib},
		"fixed":     {BlockSize: 2 * mib, Fixed: true},
		"4096":      {BlockSize: mib, LogicalSector: 4096},
		"4096fixed": {LogicalSector: 4096, Fixed: true},
	}
}

func TestDisk(t *testing.T) {
	for name, o := range createdCases() {
		block, sector := int64(32*mib), int64(512)
		if o.BlockSize != 0 {
			block = o.BlockSize
		}
		if o.LogicalSector != 0 {
			sector = int64(o.LogicalSector)
		}
		chunk := sector << 23
		sizes := []int64{sector, mib, block, block - sector, block + sector, 5*block - sector, 7*block - mib/2, chunk + block, 2*chunk + 3*sector}
		if block == mib {
			sizes = append(sizes, 9<<30, 40<<30) // many pages of the BAT
		}
		for _, size := range sizes {
			if o.Fixed && size > 5<<30 {
				continue
			}
			t.Run(fmt.Sprintf("%s-%d", name, size), func(t *testing.T) {
				disk, f := scattered(t, size, block, sector), vdisktest.NewTape()
				if err := create.Disk(t.Context(), f, disk, o); err != nil {
					t.Fatal(err)
				}
				if f.Size()%mib != 0 {
					t.Errorf("file of %d bytes", f.Size())
				}
				m, err := vhdx.Open(f.Sparse, nil)
				if err != nil {
					t.Fatal(err)
				}
				i := m.Info()
				if i.BlockSize != block || i.LogicalSector != int(sector) || i.VirtualSize != size || (i.Variant == "fixed") != o.Fixed {
					t.Errorf("info %+v", i)
				}
				if o.Fixed && f.Size() < size {
					t.Errorf("fixed file of %d bytes for a disk of %d", f.Size(), size)
				}
				sameData(t, m, disk)
				sameData(t, disk, m)
				if size == sizes[len(sizes)-1] {
					vdisktest.Run(t, m, disk)
				}
			})
		}
	}
}

// sameData compares two disks where the first has data.
func sameData(t *testing.T, a, b vdisk.Image) {
	t.Helper()
	for e, err := range a.Extents(t.Context(), 0, a.Size()) {
		if err == nil && e.Kind == vdisk.Data {
			err = vdisktest.Equal(a, b, e.Offset, e.End())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Only blocks with data take a place, within them only what is not zero, and the
// last 4 KiB, which make the file as long as it must be. Ids come from the source
// that was given.
func TestCreateIsThrifty(t *testing.T) {
	const size = 64 * mib
	disk := vdisktest.NewSparse(size)
	for off := int64(0); off < size; off += 64 * kib {
		if _, err := disk.WriteAt(make([]byte, 64*kib), off); err != nil { // zeros, but written
			t.Fatal(err)
		}
	}
	for _, off := range []int64{5*mib + 12345, 40 * mib} {
		if _, err := disk.WriteAt([]byte("x"), off); err != nil {
			t.Fatal(err)
		}
	}
	var files []*vdisktest.Tape
	for range 2 {
		f := vdisktest.NewTape()
		if err := create.Disk(t.Context(), f, disk, create.Options{BlockSize: mib, Random: rand.NewChaCha8([32]byte{7})}); err != nil {
			t.Fatal(err)
		}
		if want := int64(newBATAt + mib + 2*mib); f.Size() != want {
			t.Errorf("file has %d bytes; want %d", f.Size(), want)
		}
		files = append(files, f)
	}
	if err := vdisktest.Equal(files[0], files[1], 0, files[0].Size()); err != nil {
		t.Errorf("same disk, same ids: %v", err)
	}
	m, err := vhdx.Open(files[0].Sparse, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id := m.Info().DiskID; id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
		t.Errorf("disk id %s is not of version 4", id)
	}
	extents, err := vdisktest.Collect(m.Extents(t.Context(), 0, size))
	if err != nil || len(extents) != 7 || extents[1].Length != copyGrain {
		t.Errorf("extents %v, %v", extents, err)
	}
}

// Order of writes, power loss and errors: what every format is held to.
func TestWriter(t *testing.T) {
	for name, o := range map[string]create.Options{"dynamic": {BlockSize: mib}, "fixed": {BlockSize: mib, Fixed: true}, "4096": {LogicalSector: 4096}} {
		t.Run(name, func(t *testing.T) {
			vdisktest.RunCreate(t, vdisktest.Maker{
				Create: func(ctx context.Context, f vdisk.File, from vdisk.Image) error { return create.Disk(ctx, f, from, o) },
				Open:   func(file vdisk.Image) (vdisk.Image, error) { return vhdx.Open(file, nil) },
				Begin: func(f vdisk.File, size int64) (io.WriterAt, func() error, error) {
					w, err := create.NewWriter(f, size, o)
					return w, w.Finish, err
				},
			}, vdisktest.Scattered(12*mib+4096, mib))
		})
	}
}

func TestRefused(t *testing.T) {
	if err := create.Disk(t.Context(), vdisktest.NewTape(), vdisktest.NewSparse(mib), create.Options{Random: strings.NewReader("short")}); err == nil {
		t.Error("ids without a source")
	}
	for _, c := range []struct {
		size int64
		o    create.Options
	}{
		{mib + 1, create.Options{}}, {mib + 512, create.Options{LogicalSector: 4096}}, {65 * tib, create.Options{}},
		{mib, create.Options{BlockSize: 3 * mib}}, {mib, create.Options{BlockSize: mib / 2}}, {mib, create.Options{BlockSize: 512 * mib}},
		{mib, create.Options{LogicalSector: 1024}}, {mib, create.Options{PhysicalSector: -1}},
	} {
		if err := create.Disk(t.Context(), vdisktest.NewTape(), vdisktest.NewSparse(c.size), c.o); !errors.Is(err, vdisk.ErrUnsupported) || errors.Is(err, vdisk.ErrFormat) {
			t.Errorf("%d bytes, %+v: %v", c.size, c.o, err)
		}
	}
}

// TestCreateAgainstQEMU lets qemu-img check and read what was created.
func TestCreateAgainstQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("needs qemu-img")
	}
	for name, o := range createdCases() {
		if o.LogicalSector == 4096 {
			continue // QEMU does not read these
		}
		block := int64(32 * mib)
		if o.BlockSize != 0 {
			block = o.BlockSize
		}
		for _, size := range []int64{10*mib + 512, 3 * block, 9<<30 + block - 512} {
			t.Run(fmt.Sprintf("%s-%d", name, size), func(t *testing.T) {
				dir := t.TempDir()
				flat, out := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.vhdx")
				disk := scattered(t, size, block, 512)
				vdisktest.WriteFile(t, flat, disk)
				vdisktest.CreateFrom(t, out, flat, func(f vdisk.File, disk vdisk.Image) error { return create.Disk(t.Context(), f, disk, o) })
				qemu := func(args ...string) []byte {
					said, err := exec.Command(qemu, args...).CombinedOutput()
					if err != nil {
						t.Errorf("qemu-img %v: %v\n%s", args, err, said)
					}
					return said
				}
				qemu("check", "-f", "vhdx", out)
				if said := qemu("info", "-f", "vhdx", "--output=json", out); !bytes.Contains(said, fmt.Appendf(nil, `"virtual-size": %d,`, size)) {
					t.Errorf("qemu-img info: %s", said)
				}
				if size < 1<<29 {
					qemu("compare", "-f", "raw", "-F", "vhdx", flat, out)
					return
				}
				// Comparing all of it takes QEMU half a minute: the start of the
				// second chunk, where places in the BAT shift, and the end.
				for _, at := range []int64{1<<12 - 40, size/mib - 40} {
					if at*mib > size {
						continue // has no second chunk
					}
					part := filepath.Join(dir, "part")
					qemu("dd", "-f", "vhdx", "-O", "raw", "bs=1M", fmt.Sprint("skip=", at), fmt.Sprint("count=", at+80), "if="+out, "of="+part)
					got, err := os.ReadFile(part)
					want := make([]byte, min(80*mib, size-at*mib))
					if err == nil {
						_, err = disk.ReadAt(want, at*mib)
					}
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("QEMU reads something else from %d MiB on (%d of %d bytes, %v)", at, len(got), len(want), err)
					}
				}
			})
		}
	}
}
