package vhd_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// writes returns qemu-io commands that write patterns at random places, some
// of them across the borders of blocks, and zero a few ranges.
func writes(size int64) []string {
	rnd := rand.New(rand.NewPCG(uint64(size), 1))
	var args []string
	for i := range 24 {
		n := min(size, (rnd.Int64N(200)+1)*512)
		off := rnd.Int64N((size-n)/512+1) * 512
		if i%3 == 0 && size > 4*mib {
			off = (rnd.Int64N(size/(2*mib)-1)+1)*2*mib - n/1024*512
		}
		cmd := fmt.Sprintf("write -P %d %d %d", rnd.IntN(255)+1, off, n)
		if i%6 == 5 {
			cmd = fmt.Sprintf("write -z %d %d", off, n)
		}
		args = append(args, "-c", cmd)
	}
	return append(args, "-c", fmt.Sprintf("write -P 7 %d 512", size-512))
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

// virtualSize is the size of the disk as QEMU sees it.
func virtualSize(t *testing.T, path string) int64 {
	t.Helper()
	out := vdisktest.Tool(t, "qemu-img", "info", "-f", "vpc", "--output=json", path)
	_, rest, _ := bytes.Cut(out, []byte(`"virtual-size": `))
	var n int64
	if _, err := fmt.Sscan(string(rest[:bytes.IndexAny(rest, ",\n}")]), &n); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return n
}

// TestAgainstQEMU writes the same to a VHD and to a raw file with qemu-io and
// compares what is read. Without force_size QEMU makes the disk larger, to fit
// a geometry, which then has to be seen as it is.
func TestAgainstQEMU(t *testing.T) {
	for _, subformat := range []string{"dynamic", "fixed"} {
		for _, force := range []string{"on", "off"} {
			for _, size := range []int64{512, 10*mib + 512, 100 * mib, 3*gib + 1536, 150 * gib} {
				if subformat == "fixed" && size > gib {
					continue
				}
				t.Run(fmt.Sprintf("%s-%s-%d", subformat, force, size), func(t *testing.T) {
					dir := t.TempDir()
					image, flat := filepath.Join(dir, "disk.vhd"), filepath.Join(dir, "disk.raw")
					vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size="+force+",subformat="+subformat, image, fmt.Sprint(size))
					seen := virtualSize(t, image)
					if force == "on" && seen != size {
						t.Errorf("asked for %d, QEMU sees %d", size, seen)
					}
					vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "raw", flat, fmt.Sprint(seen))
					w := writes(seen)
					vdisktest.Tool(t, "qemu-io", append([]string{"-f", "vpc"}, append(w, image)...)...)
					vdisktest.Tool(t, "qemu-io", append([]string{"-f", "raw"}, append(w, flat)...)...)
					x := openDisk(t, image, "")
					if i := x.Info(); i.Format != "vhd" || i.Variant != subformat || i.VirtualSize != seen {
						t.Errorf("info %+v, QEMU sees %d bytes", i, seen)
					}
					vdisktest.Run(t, x, openDisk(t, flat, "raw"))
				})
			}
		}
	}
}

// TestConverted compares a disk full of data.
func TestConverted(t *testing.T) {
	dir := t.TempDir()
	flat := filepath.Join(dir, "disk.raw")
	b := make([]byte, 48*mib+512)
	for off := int64(0); off < int64(len(b)); off += 3 * mib {
		copy(b[off:min(int64(len(b)), off+2*mib)], random(uint64(off/mib), 2*mib))
	}
	if err := os.WriteFile(flat, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, subformat := range []string{"dynamic", "fixed"} {
		image := filepath.Join(dir, subformat+".vhd")
		vdisktest.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat="+subformat, flat, image)
		x := openDisk(t, image, "")
		if err := vdisktest.Equal(x, openDisk(t, flat, "raw"), 0, int64(len(b))); err != nil || x.Size() != int64(len(b)) {
			t.Errorf("%s: %d bytes, %v", subformat, x.Size(), err)
		}
	}
}
