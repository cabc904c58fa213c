package vhd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
)

func maker(o vhd.CreateOptions) vdisktest.Maker {
	return vdisktest.Maker{
		Create: func(ctx context.Context, f vdisk.File, from vdisk.Image) error { return vhd.Create(ctx, f, from, o) },
		Open:   func(file vdisk.Image) (vdisk.Image, error) { return vhd.Open(file, nil) },
		Begin: func(f vdisk.File, size int64) (io.WriterAt, func() error, error) {
			w, err := vhd.NewWriter(f, size, o)
			return w, w.Finish, err
		},
	}
}

func created() map[string]vhd.CreateOptions {
	return map[string]vhd.CreateOptions{
		"dynamic": {},
		"64K":     {BlockSize: 64 * kib},
		"32M":     {BlockSize: 32 * mib},
		"fixed":   {Fixed: true},
	}
}

func TestCreate(t *testing.T) {
	for name, o := range created() {
		for _, size := range []int64{12*mib + 512, 3 * gib} {
			t.Run(fmt.Sprintf("%s-%d", name, size), func(t *testing.T) {
				vdisktest.RunCreate(t, maker(o), vdisktest.Scattered(size, 64*kib, 2*mib))
			})
		}
	}
	t.Run("largest", func(t *testing.T) {
		disk, f := vdisktest.Scattered(2040*gib, 300*gib), vdisktest.NewTape()
		if err := vhd.Create(t.Context(), f, disk, vhd.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		vdisktest.Run(t, openVHD(t, f, nil), disk)
	})
}

// The bytes that other readers go by, where the specification has them.
func TestCreatedBytes(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		f, disk := vdisktest.NewTape(), vdisktest.NewSparse(100*mib)
		if _, err := disk.WriteAt([]byte("x"), 5*mib); err != nil {
			t.Fatal(err)
		}
		o := vhd.CreateOptions{Fixed: fixed, Time: time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC), Random: rand.NewChaCha8([32]byte{7})}
		if err := vhd.Create(t.Context(), f, disk, o); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 512)
		if _, err := f.ReadAt(b, f.Size()-512); err != nil {
			t.Fatal(err)
		}
		be, kind, offset, size := binary.BigEndian, uint32(3), uint64(512), int64(0)
		if fixed {
			kind, offset, size = 2, 1<<64-1, 100*mib+512
		}
		if string(b[:8]) != "conectix" || be.Uint32(b[8:]) != 2 || be.Uint32(b[12:]) != 0x10000 || be.Uint64(b[16:]) != offset ||
			be.Uint32(b[24:]) != 60 || string(b[28:32]) != "win " || string(b[36:40]) != "Wi2k" ||
			be.Uint64(b[40:]) != 100<<20 || be.Uint64(b[48:]) != 100<<20 || be.Uint16(b[56:]) != 1003 || b[58] != 12 || b[59] != 17 ||
			be.Uint32(b[60:]) != kind || b[74]>>4 != 4 || fixed && f.Size() != size {
			t.Errorf("fixed %v: footer % x of a file of %d bytes", fixed, b[:90], f.Size())
		}
		if fixed {
			continue
		}
		if _, err := f.ReadAt(b, 2*mib-512+1536); err == nil && f.Size()%512 != 0 {
			t.Errorf("file of %d bytes", f.Size())
		}
		if _, err := f.ReadAt(b[:4], 1536+4*2); err != nil {
			t.Fatal(err)
		}
		if at := int64(be.Uint32(b)) * 512; (at+512)%4096 != 0 || at+512+2*mib+512 != f.Size() {
			t.Errorf("data of the only block begin at %d, in a file of %d bytes", at+512, f.Size())
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, c := range []struct {
		size int64
		o    vhd.CreateOptions
	}{
		{mib + 1, vhd.CreateOptions{}}, {mib + 1, vhd.CreateOptions{Fixed: true}}, {2040*gib + 512, vhd.CreateOptions{}}, {2041 * gib, vhd.CreateOptions{Fixed: true}},
		{mib, vhd.CreateOptions{BlockSize: 3 * mib}}, {mib, vhd.CreateOptions{BlockSize: 32 * kib}}, {mib, vhd.CreateOptions{BlockSize: 512 * mib}},
		{mib, vhd.CreateOptions{BlockSize: -1}},
	} {
		if err := vhd.Create(t.Context(), vdisktest.NewTape(), vdisktest.NewSparse(c.size), c.o); !errors.Is(err, vdisk.ErrUnsupported) {
			t.Errorf("%d bytes, %+v: %v", c.size, c.o, err)
		}
	}
	if err := vhd.Create(t.Context(), vdisktest.NewTape(), vdisktest.NewSparse(mib), vhd.CreateOptions{Random: strings.NewReader("short")}); err == nil {
		t.Error("an id without a source")
	}
}

// TestCreateAgainstQEMU lets qemu-img read what was created, and see its size.
func TestCreateAgainstQEMU(t *testing.T) {
	for name, o := range created() {
		for _, size := range []int64{512, 100 * mib, 10*mib + 512, 9*gib + 1536, 200 * gib} {
			if o.Fixed && size > gib {
				continue // QEMU reads all of it to compare
			}
			t.Run(fmt.Sprintf("%s-%d", name, size), func(t *testing.T) {
				dir := t.TempDir()
				flat, out := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.vhd")
				vdisktest.WriteFile(t, flat, vdisktest.Scattered(size, 64*kib, 2*mib, size/7/512*512))
				vdisktest.CreateFrom(t, out, flat, func(f vdisk.File, disk vdisk.Image) error { return vhd.Create(t.Context(), f, disk, o) })
				if seen := virtualSize(t, out); seen != size {
					t.Errorf("QEMU sees %d bytes, want %d", seen, size)
				}
				if size < gib {
					vdisktest.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "vpc", flat, out)
					return
				}
				// Comparing all of it takes QEMU minutes: what is around the data.
				src := openDisk(t, flat, "raw")
				for _, at := range []int64{0, size / 7 / 512 * 512 / mib, size/mib - 8} {
					part := filepath.Join(dir, "part")
					vdisktest.Tool(t, "qemu-img", "dd", "-f", "vpc", "-O", "raw", "bs=1M", fmt.Sprint("skip=", at), fmt.Sprint("count=", at+16), "if="+out, "of="+part)
					n := min(16*mib, size-at*mib)
					shift := openDisk(t, part, "raw")
					if err := vdisktest.Equal(shift, io.NewSectionReader(src, at*mib, n), 0, n); err != nil || shift.Size() != n {
						t.Errorf("QEMU reads something else from %d MiB on: %d bytes, %v", at, shift.Size(), err)
					}
				}
			})
		}
	}
}
