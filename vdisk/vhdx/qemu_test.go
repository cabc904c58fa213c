package vhdx_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// writes returns qemu-io commands that write patterns at random places, some
// of them across the borders of blocks, and zero a few ranges.
func writes(size int64, block int64) []string {
	rnd := rand.New(rand.NewPCG(uint64(size), uint64(block)))
	var args []string
	for i := range 24 {
		n := (rnd.Int64N(200) + 1) * 512
		off := rnd.Int64N((size-n)/512+1) * 512
		if i%3 == 0 && size > 2*block {
			off = (rnd.Int64N(size/block-1)+1)*block - n/1024*512
		}
		cmd := fmt.Sprintf("write -P %d %d %d", rnd.IntN(255)+1, off, n)
		if i%6 == 5 {
			cmd = fmt.Sprintf("write -z %d %d", off, n)
		}
		args = append(args, "-c", cmd)
	}
	return args
}

func openDisk(t *testing.T, path, format string) *open.Disk {
	t.Helper()
	d, err := open.Path(path, open.Options{Format: format})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// TestAgainstQEMU writes the same to a VHDX and to a raw file with qemu-io and
// compares what is read. Three of the disks have more than one chunk, so that
// sector bitmap entries lie between those of blocks.
func TestAgainstQEMU(t *testing.T) {
	for _, c := range []struct {
		subformat string
		block     int64
		size      int64
	}{
		{"dynamic", 1 << 20, 10 << 20},
		{"dynamic", 1 << 20, 9 << 30}, // ratio 4096
		{"dynamic", 2 << 20, 3<<30 + 512},
		{"dynamic", 32 << 20, 10 << 30},  // ratio 128
		{"dynamic", 256 << 20, 40 << 30}, // ratio 16
		{"dynamic", 8 << 20, 2<<40 + 7*512},
		{"fixed", 1 << 20, 21<<20 + 512},
		{"fixed", 2 << 20, 64 << 20},
		{"fixed", 32 << 20, 5 << 30},
	} {
		t.Run(fmt.Sprintf("%s-%dM-%d", c.subformat, c.block>>20, c.size), func(t *testing.T) {
			dir := t.TempDir()
			image, flat := filepath.Join(dir, "disk.vhdx"), filepath.Join(dir, "disk.raw")
			size := fmt.Sprint(c.size)
			vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "vhdx", "-o", fmt.Sprintf("subformat=%s,block_size=%d", c.subformat, c.block), image, size)
			vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "raw", flat, size)
			w := writes(c.size, c.block)
			vdisktest.Tool(t, "qemu-io", append([]string{"-f", "vhdx"}, append(w, image)...)...)
			vdisktest.Tool(t, "qemu-io", append([]string{"-f", "raw"}, append(w, flat)...)...)

			x := openDisk(t, image, "")
			if i := x.Info(); i.Format != "vhdx" || i.Variant != c.subformat || i.BlockSize != c.block || i.VirtualSize != c.size || i.LogicalSector != 512 {
				t.Errorf("info %+v", i)
			}
			vdisktest.Run(t, x, openDisk(t, flat, "raw"))
		})
	}
}

// TestConverted compares a disk full of data, written by qemu-img in its own
// order, and lets qemu-img be the judge as well.
func TestConverted(t *testing.T) {
	dir := t.TempDir()
	flat := filepath.Join(dir, "disk.raw")
	b := make([]byte, 48<<20+512)
	rnd := rand.NewChaCha8([32]byte{1})
	for off := 0; off < len(b); off += 3 << 20 {
		_, _ = rnd.Read(b[off:min(len(b), off+2<<20)])
	}
	if err := os.WriteFile(flat, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"subformat=fixed", "subformat=dynamic,block_size=1M", "subformat=dynamic", "subformat=dynamic,block_state_zero=off"} {
		image := filepath.Join(dir, options+".vhdx")
		vdisktest.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", options, flat, image)
		x := openDisk(t, image, "")
		if err := vdisktest.Equal(x, openDisk(t, flat, "raw"), 0, int64(len(b))); err != nil {
			t.Errorf("%s: %v", options, err)
		}
		e, err := vdisktest.Collect(x.Extents(t.Context(), 0, x.Size()))
		if err != nil {
			t.Fatal(err)
		}
		data := int64(0)
		for _, e := range e {
			if e.Kind == vdisk.Data {
				data += e.Length
			}
		}
		t.Logf("%s: %d extents, %d of %d bytes are data", options, len(e), data, len(b))
	}
}

// TestCut takes bytes off the end of an image: never may it read as if they
// had been zeros.
func TestCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "vhdx", "-o", "subformat=dynamic,block_size=1M", path, "64M")
	vdisktest.Tool(t, "qemu-io", "-f", "vhdx", "-c", "write -P 1 0 16M", path)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int64{512, 1 << 20, 15 << 20, st.Size() - 1<<20, st.Size() - 100} {
		if err := os.Truncate(path, st.Size()-cut); err != nil {
			t.Fatal(err)
		}
		_, err := open.Path(path, open.Options{})
		if err == nil || !strings.Contains(err.Error(), "file ends") || !strings.Contains(err.Error(), path) {
			t.Errorf("%d bytes cut off: %v", cut, err)
		}
	}
}
