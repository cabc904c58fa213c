package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

func maker(o qcow2.CreateOptions) vdisktest.Maker {
	return vdisktest.Maker{
		Create: func(ctx context.Context, f vdisk.File, from vdisk.Image) error { return qcow2.Create(ctx, f, from, o) },
		Open:   func(file vdisk.Image) (vdisk.Image, error) { return qcow2.Open(file, nil) },
		Begin: func(f vdisk.File, size int64) (io.WriterAt, func() error, error) {
			w, err := qcow2.NewWriter(f, size, o)
			return w, w.Finish, err
		},
	}
}

func TestCreate(t *testing.T) {
	for _, c := range []struct {
		cluster int64
		size    int64
		steps   []int64
	}{
		{0, 12*mib + 512, []int64{64 * kib, 2 * mib}},
		{0, 3 * tib, []int64{64 * kib, 512 * mib}},
		{4 * kib, 13 * gib, []int64{4 * kib, 2 * mib, gib}},
		{2 * mib, 20*gib + 1536, []int64{mib, gib}},
	} {
		t.Run(fmt.Sprintf("%d-%d", c.cluster, c.size), func(t *testing.T) {
			vdisktest.RunCreate(t, maker(qcow2.CreateOptions{ClusterSize: c.cluster}), vdisktest.Scattered(c.size, c.steps...))
		})
	}
}

// TestCreateHuge writes to more L2 tables than are kept, and back and forth
// between them, so that they are written and read again.
func TestCreateHuge(t *testing.T) {
	const size = 64 * tib
	disk, f := vdisktest.NewSparse(size), vdisktest.NewTape()
	w, err := qcow2.NewWriter(f, size, qcow2.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for round := range int64(3) {
		for n := range int64(300) {
			p := fmt.Appendf(nil, "round %d, table %d", round, n)
			off := n*size/300/512*512 + round*30*kib
			for _, to := range []io.WriterAt{disk, w} {
				if _, err := to.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	m, err := qcow2.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range disk.Extents(t.Context(), 0, size) {
		if err == nil && e.Kind == vdisk.Data {
			err = vdisktest.Equal(m, disk, e.Offset, e.End())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	out := filepath.Join(dir, "disk.qcow2")
	save(t, out, f)
	check(t, out)
}

func TestCreateRefuses(t *testing.T) {
	for _, c := range []struct{ size, cluster int64 }{
		{mib + 1, 0}, {1 << 62, 0}, {3 * tib, 512}, {9 * tib, 4096}, {mib, 3 * mib}, {mib, 4 * mib}, {mib, -1},
	} {
		if err := qcow2.Create(t.Context(), vdisktest.NewTape(), vdisktest.NewSparse(c.size), qcow2.CreateOptions{ClusterSize: c.cluster}); !errors.Is(err, vdisk.ErrUnsupported) {
			t.Errorf("%d bytes in clusters of %d: %v", c.size, c.cluster, err)
		}
	}
}

// save writes a file of the memory to the disk.
func save(t *testing.T, path string, from vdisk.Image) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(from.Size()); err != nil {
		t.Fatal(err)
	}
	if err := vdisk.Copy(t.Context(), f, from); err != nil {
		t.Fatal(err)
	}
}

// check lets qemu-img look at all of an image's structures: nothing is to be
// wrong, and nothing leaked.
func check(t *testing.T, path string) {
	t.Helper()
	if out := vdisktest.Tool(t, "qemu-img", "check", "-f", "qcow2", path); !bytes.Contains(out, []byte("No errors were found on the image.")) {
		t.Errorf("qemu-img check: %s", out)
	}
}

// TestCreateAgainstQEMU lets qemu-img check and read what was created, and write
// to it.
func TestCreateAgainstQEMU(t *testing.T) {
	for _, cluster := range []int64{4 * kib, 64 * kib, 2 * mib} {
		for _, size := range []int64{0, 512, 10*mib + 512, 512 * mib, 700*mib + 1536} {
			t.Run(fmt.Sprintf("%d-%d", cluster, size), func(t *testing.T) {
				dir := t.TempDir()
				flat, out := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
				disk := vdisktest.Scattered(size, cluster, 3*mib)
				save(t, flat, disk)
				f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := qcow2.Create(t.Context(), f, disk, qcow2.CreateOptions{ClusterSize: cluster}); err != nil {
					t.Fatal(err)
				}
				check(t, out)
				if said := vdisktest.Tool(t, "qemu-img", "info", "-f", "qcow2", "--output=json", out); !bytes.Contains(said, fmt.Appendf(nil, `"virtual-size": %d,`, size)) {
					t.Errorf("qemu-img info: %s", said)
				}
				if size == 0 {
					return
				}
				vdisktest.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", flat, out)
				for _, path := range []string{flat, out} {
					vdisktest.Tool(t, "qemu-io", append([]string{"-f", filepath.Ext(path)[1:]}, append(writes(size, cluster, 5), path)...)...)
				}
				vdisktest.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", flat, out)
				check(t, out)
			})
		}
	}
}
