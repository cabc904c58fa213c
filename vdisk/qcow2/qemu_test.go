package qcow2_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

// writes returns qemu-io commands that write patterns at random places, some
// of them across the borders of clusters, zero a few ranges and discard some.
func writes(size, cluster int64, seed uint64) []string {
	rnd := rand.New(rand.NewPCG(uint64(size), seed))
	var args []string
	for i := range 30 {
		n := min(size, (rnd.Int64N(400)+1)*512)
		off := rnd.Int64N((size-n)/512+1) * 512
		if i%3 == 0 && size > 4*cluster {
			off = max(0, min((rnd.Int64N(size/cluster-1)+1)*cluster-n/1024*512, size-n))
		}
		cmd := fmt.Sprintf("write -P %d %d %d", rnd.IntN(255)+1, off, n)
		switch i % 7 {
		case 5:
			cmd = fmt.Sprintf("write -z %d %d", off, n)
		case 6:
			cmd = fmt.Sprintf("write -z -u %d %d", off, n)
		}
		args = append(args, "-c", cmd)
	}
	return append(args, "-c", fmt.Sprintf("write -P 7 %d 512", size-512))
}

func inMemory(t *testing.T, path string) *vdisktest.Sparse {
	t.Helper()
	file := vdisktest.File(t, path)
	s := vdisktest.NewSparse(file.Size())
	if err := vdisk.Copy(t.Context(), s, file); err != nil {
		t.Fatal(err)
	}
	return s
}

// finder finds parents in a folder, by the bare name.
func finder(t *testing.T, dir string) vdisk.FindParent {
	return func(p vdisk.Parent) (vdisk.Image, error) {
		f := inMemory(t, filepath.Join(dir, filepath.Base(p.Paths[0].Path)))
		if p.Format == "qcow2" {
			return qcow2.Open(f, finder(t, dir))
		}
		return f, nil
	}
}

// openDisk reads the image from memory. The file may have space that was
// reserved and not written, which the kernel calls a hole or data depending on
// what has been read of it, so that two maps of it are not the same.
func openDisk(t *testing.T, path string) *qcow2.Image {
	t.Helper()
	m, err := qcow2.Open(inMemory(t, path), finder(t, filepath.Dir(path)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAgainstQEMU writes the same to a qcow2 and to a raw file with qemu-io and
// compares what is read.
func TestAgainstQEMU(t *testing.T) {
	for _, c := range []struct {
		options string
		cluster int64
		size    int64
	}{
		{"", 64 * kib, 10*mib + 512},
		{"", 64 * kib, 3 * tib},
		{"compat=0.10", 64 * kib, 700 * mib},
		{"compat=0.10,cluster_size=512", 512, 30 * mib},
		{"cluster_size=512", 512, 30*mib + 1536},
		{"cluster_size=4k", 4 * kib, gib + 512},
		{"cluster_size=2M", 2 * mib, 20 * gib},
		{"extended_l2=on", 64 * kib, 100*mib + 512},
		{"extended_l2=on,cluster_size=16k", 16 * kib, 600 * mib},
		{"extended_l2=on,cluster_size=2M", 2 * mib, 9 * gib},
		{"preallocation=metadata", 64 * kib, 70*mib + 512},
		{"preallocation=falloc", 64 * kib, 20 * mib},
		{"lazy_refcounts=on,refcount_bits=1", 64 * kib, 20 * mib},
	} {
		t.Run(fmt.Sprintf("%s-%d", c.options, c.size), func(t *testing.T) {
			dir := t.TempDir()
			image, flat := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "disk.raw")
			size := fmt.Sprint(c.size)
			args := []string{"create", "-q", "-f", "qcow2"}
			if c.options != "" {
				args = append(args, "-o", c.options)
			}
			vdisktest.Tool(t, "qemu-img", append(args, image, size)...)
			vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "raw", flat, size)
			w := writes(c.size, c.cluster, 1)
			vdisktest.Tool(t, "qemu-io", append([]string{"-f", "qcow2", "-d", "unmap"}, append(w, image)...)...)
			vdisktest.Tool(t, "qemu-io", append([]string{"-f", "raw"}, append(w, flat)...)...)
			x := openDisk(t, image)
			if i := x.Info(); i.Format != "qcow2" || i.BlockSize != c.cluster || i.VirtualSize != c.size || i.Variant != "" {
				t.Errorf("info %+v", i)
			}
			vdisktest.Run(t, x, vdisktest.File(t, flat))
		})
	}
}

// half is data that compresses somewhat, with zeros between.
func half(size int64) []byte {
	b := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for off := int64(0); off < size; off += 3 * mib / 2 {
		for i := range b[off:min(size, off+mib)] {
			b[off+int64(i)] = byte(rnd.Uint32() & 0x33)
		}
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCompressed converts a disk into compressed clusters of both kinds, and
// overwrites some of them.
func TestCompressed(t *testing.T) {
	const size = 5*mib + 512
	for _, options := range []string{
		"", "compression_type=zstd", "compat=0.10", "cluster_size=2M", "cluster_size=2M,compression_type=zstd", "cluster_size=4k",
		"cluster_size=512", "extended_l2=on", "extended_l2=on,compression_type=zstd",
	} {
		t.Run(options, func(t *testing.T) {
			dir := t.TempDir()
			image, flat := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "disk.raw")
			writeFile(t, flat, half(size))
			args := []string{"convert", "-c", "-f", "raw", "-O", "qcow2"}
			if options != "" {
				args = append(args, "-o", options)
			}
			vdisktest.Tool(t, "qemu-img", append(args, flat, image)...)
			for _, path := range []string{image, flat} {
				vdisktest.Tool(t, "qemu-io", "-f", strings.TrimPrefix(filepath.Ext(path), "."), "-c", "write -P 9 100k 3k", "-c", fmt.Sprintf("write -P 8 %d 512", size-512), path)
			}
			x := openDisk(t, image)
			vdisktest.RunSlow(t, x, vdisktest.File(t, flat))
		})
	}
}

// TestBacking reads a chain: raw, a larger qcow2, a compressed one over it, and
// one with zero clusters over that.
func TestBacking(t *testing.T) {
	dir := t.TempDir()
	path := func(n int) string { return filepath.Join(dir, fmt.Sprintf("layer%d", n)) }
	writeFile(t, path(0), half(10*mib+512))
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "layer0", "-F", "raw", path(1), "21M")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-b", path(1), "-F", "qcow2", path(2), "21M")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "layer2", "-F", "qcow2", path(3), "30M")
	for n := 1; n <= 3; n++ {
		vdisktest.Tool(t, "qemu-io", append([]string{"-f", "qcow2"}, append(writes(21*mib, 64*kib, uint64(n)), path(n))...)...)
	}
	for n := 1; n <= 3; n++ {
		flat := filepath.Join(dir, "flat")
		vdisktest.Tool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path(n), flat)
		x := openDisk(t, path(n))
		if x.Info().Variant != "differencing" {
			t.Errorf("info %+v", x.Info())
		}
		vdisktest.Run(t, x, vdisktest.File(t, flat))
		own, err := vdisktest.Collect(x.Own(t.Context(), 0, x.Size()))
		if err != nil || len(own) < 20 {
			t.Errorf("own extents %v, %v", own, err)
		}
	}
	if _, err := qcow2.Open(vdisktest.File(t, path(1)), nil); !errors.Is(err, vdisk.ErrUnsupported) || !strings.Contains(err.Error(), "layer0") {
		t.Errorf("without its backing file: %v", err)
	}
}

func TestSnapshots(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.qcow2")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "40M")
	var flats []string
	for n := range 3 {
		vdisktest.Tool(t, "qemu-io", append([]string{"-f", "qcow2"}, append(writes(40*mib, 64*kib, uint64(n)), image)...)...)
		flat := filepath.Join(dir, fmt.Sprint("flat", n))
		vdisktest.Tool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, flat)
		flats = append(flats, flat)
		if n < 2 {
			vdisktest.Tool(t, "qemu-img", "snapshot", "-c", fmt.Sprintf("before %d", n), image)
		}
	}
	vdisktest.Tool(t, "qemu-img", "resize", "-q", image, "50M")
	file := vdisktest.File(t, image)
	all, err := qcow2.Snapshots(file)
	if err != nil || len(all) != 2 || all[0].ID != "1" || all[1].Name != "before 1" || all[1].Size != 40*mib || all[0].Taken.Year() < 2020 {
		t.Fatalf("%+v, %v", all, err)
	}
	for n, name := range []string{"1", "before 1"} {
		x, err := qcow2.OpenSnapshot(file, nil, name)
		if err != nil {
			t.Fatal(err)
		}
		vdisktest.Run(t, x, vdisktest.File(t, flats[n]))
	}
	now := openDisk(t, image)
	if err := vdisktest.Equal(now, vdisktest.File(t, flats[2]), 0, 40*mib); err != nil || now.Size() != 50*mib {
		t.Error(now.Size(), err)
	}
	if _, err := qcow2.OpenSnapshot(file, nil, "after"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestRefusedByName has QEMU make what is not read.
func TestRefusedByName(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.qcow2")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"}, "LUKS"},
		{[]string{"--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"}, "AES"},
		{[]string{"-o", "data_file=" + filepath.Join(dir, "data")}, "data\""},
	} {
		vdisktest.Tool(t, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, c.args...), image, "10M")...)
		if _, err := qcow2.Open(vdisktest.File(t, image), nil); !errors.Is(err, vdisk.ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}

// TestCut takes bytes off the end of an image: never may it read as if they had
// been zeros.
func TestCut(t *testing.T) {
	dir := t.TempDir()
	image, flat := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "flat")
	writeFile(t, flat, half(8*mib+512))
	for _, args := range [][]string{{"convert"}, {"convert", "-c"}} {
		for _, cut := range []int64{512, 4096, 64 * kib, mib, 5 * mib} {
			vdisktest.Tool(t, "qemu-img", append(args, "-f", "raw", "-O", "qcow2", flat, image)...)
			st, err := os.Stat(image)
			if err != nil {
				t.Fatal(err)
			}
			if cut >= st.Size() {
				continue
			}
			if err := os.Truncate(image, st.Size()-cut); err != nil {
				t.Fatal(err)
			}
			x, err := qcow2.Open(vdisktest.File(t, image), nil)
			if err == nil {
				err = vdisktest.Equal(x, vdisktest.File(t, flat), 0, x.Size())
			}
			if err != nil && !errors.Is(err, vdisk.ErrTruncated) && !errors.Is(err, vdisk.ErrFormat) {
				t.Errorf("%v, %d bytes cut off: %v", args, cut, err)
			}
			t.Logf("%v, %d bytes cut off: %v", args, cut, err)
		}
	}
}
