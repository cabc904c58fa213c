package open_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
)

// TestQcow2Chain opens what qemu-img made of a raw image and two layers, and
// compares it with what qemu-img sees.
func TestQcow2Chain(t *testing.T) {
	qemu := func(name string, args ...string) {
		t.Helper()
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("needs %s", name)
		}
		if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	qemu("qemu-img", "create", "-q", "-f", "raw", at("base.img"), "10M")
	qemu("qemu-io", "-f", "raw", "-c", "write -P 1 1M 3M", at("base.img"))
	qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", at("middle.qcow2"), "12M")
	qemu("qemu-io", "-f", "qcow2", "-c", "write -P 2 2M 100k", "-c", "write -z 3M 64k", at("middle.qcow2"))
	qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", at("middle.qcow2"), "-F", "qcow2", at("leaf.qcow2"))
	qemu("qemu-io", "-f", "qcow2", "-c", "write -P 3 11M 5k", at("leaf.qcow2"))
	qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", at("leaf.qcow2"), at("flat.raw"))

	d, err := open.Path(at("leaf.qcow2"), open.Options{Parents: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want, err := open.Path(at("flat.raw"), open.Options{Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	vdisktest.Run(t, d, want)
	if l := d.Layers(); len(l) != 3 || l[2].Info.Format != "raw" || l[1].Info.Variant != "differencing" {
		t.Errorf("layers %+v", l)
	}
	if _, err := open.Path(at("leaf.qcow2"), open.Options{}); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("without folders for parents: %v", err)
	}
	// A backing file of which the image does not say that it is raw is not taken
	// for raw: its guest could have written a name of another file into it.
	b, err := os.ReadFile(at("middle.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	format := bytes.Index(b[:1024], []byte{0xE2, 0x79, 0x2A, 0xCA}) // the header extension that says so
	b[format] = 0x11
	if err := os.WriteFile(at("middle.qcow2"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Path(at("leaf.qcow2"), open.Options{Parents: []string{dir}}); err == nil {
		t.Errorf("a parent without a signature was taken for raw: %v", err)
	}
}

// TestVHDChain makes a dynamic VHD the child of another by hand: what it has no
// block for is the parent's, and the parent is found by its id.
func TestVHDChain(t *testing.T) {
	const mib = 1 << 20
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	parent, child := vdisktest.Scattered(20*mib, mib), vdisktest.NewSparse(24*mib)
	if _, err := child.WriteAt([]byte("child"), 7*mib); err != nil {
		t.Fatal(err)
	}
	for name, disk := range map[string]*vdisktest.Sparse{"base.vhd": parent, "other.vhd": parent, "child.vhd": child} {
		f, err := os.Create(at(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(vhd.Create(t.Context(), f, disk, vhd.CreateOptions{}), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	base, err := os.ReadFile(at("base.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(at("child.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	summed := func(b []byte, at int) {
		clear(b[at : at+4])
		var s uint32
		for _, c := range b {
			s += uint32(c)
		}
		binary.BigEndian.PutUint32(b[at:], ^s)
	}
	for _, footer := range [][]byte{b[:512], b[len(b)-512:]} {
		footer[63] = 4
		summed(footer, 64)
	}
	header := b[512:1536]
	copy(header[40:], base[68:84])
	for i, c := range utf16.Encode([]rune(`D:\gone\base.vhd`)) {
		binary.BigEndian.PutUint16(header[64+2*i:], c)
	}
	summed(header, 36)
	if err := os.WriteFile(at("child.vhd"), b, 0o600); err != nil {
		t.Fatal(err)
	}

	want := vdisktest.NewSparse(24 * mib)
	p := make([]byte, 20*mib)
	if _, err := parent.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	clear(p[6*mib : 8*mib]) // the child's only block
	copy(p[7*mib:], "child")
	if err := vdisk.Copy(t.Context(), want, vdisktest.FromBytes(p)); err != nil {
		t.Fatal(err)
	}
	d, err := open.Path(at("child.vhd"), open.Options{Parents: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, d, want)
	if i := d.Info(); i.Variant != "differencing" || len(d.Layers()) != 2 {
		t.Errorf("info %+v, %d layers", i, len(d.Layers()))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at("other.vhd"), at("base.vhd")); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Path(at("child.vhd"), open.Options{Parents: []string{dir}}); !errors.Is(err, open.ErrWrongParent) {
		t.Errorf("with another parent: %v", err)
	}
}
