package open_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/journal"
	"github.com/millrace-backup/millrace/vdisk/vhdx/layout"
)

// TestQcow2Chain opens what qemu-img made of a raw image and two layers, and
// compares it with what qemu-img sees.
func TestQcow2Chain(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "raw", at("base.img"), "10M")
	vdisktest.Tool(t, "qemu-io", "-f", "raw", "-c", "write -P 1 1M 3M", at("base.img"))
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", at("middle.qcow2"), "12M")
	vdisktest.Tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 2 2M 100k", "-c", "write -z 3M 64k", at("middle.qcow2"))
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", at("middle.qcow2"), "-F", "qcow2", at("leaf.qcow2"))
	vdisktest.Tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 3 11M 5k", at("leaf.qcow2"))
	vdisktest.Tool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", at("leaf.qcow2"), at("flat.raw"))

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
	adopt(t, at("child.vhd"), func(footers, header []byte) {
		copy(header[40:], base[68:84])
		for i, c := range utf16.Encode([]rune(`D:\gone\base.vhd`)) {
			binary.BigEndian.PutUint16(header[64+2*i:], c)
		}
	})

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

// adopt makes a dynamic VHD a differencing one. change may change its footer and its
// header before they are summed.
func adopt(t *testing.T, path string, change func(footer, header []byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
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
	footer, header := b[:512], b[512:1536]
	footer[63] = 4
	change(footer, header)
	summed(footer, 64)
	summed(header, 36)
	copy(b[len(b)-512:], footer)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Images that name each other as parents, with ids that all fit or none, are not
// tried in every order.
func TestParentsWithoutEnd(t *testing.T) {
	const images = 10
	for name, id := range map[string]func(n int) byte{"one id": func(int) byte { return 7 }, "ids that nobody has": func(n int) byte { return byte(n) }} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for n := range images {
				f := newFile(t, dir, fmt.Sprint(n))
				if err := errors.Join(vhd.Create(t.Context(), f, vdisktest.NewSparse(mib), vhd.CreateOptions{}), f.Close()); err != nil {
					t.Fatal(err)
				}
				adopt(t, f.Name(), func(footer, header []byte) {
					for i := range 16 {
						footer[68+i], header[40+i] = id(n), id(99)
					}
					// Each locator is the name of another image, in the name that the
					// header has for its parent.
					at := 64
					for k := range 8 {
						l := header[576+24*k:]
						copy(l, "W2ru")
						binary.BigEndian.PutUint32(l[8:], 2)
						binary.BigEndian.PutUint64(l[16:], uint64(512+at))
						header[at] = '0' + byte((n+k+1)%images)
						at += 2
					}
				})
			}
			began := time.Now()
			_, err := open.Path(filepath.Join(dir, "0"), open.Options{Parents: []string{dir}})
			if err == nil || id(1) == 7 && !strings.Contains(err.Error(), "given up") {
				t.Errorf("opened: %v", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if n := len(fmt.Sprint(err)); n > 100<<10 {
				t.Errorf("the error has %d bytes", n)
			}
		})
	}
}

// The logs of a chain are held all at once, so that there is a limit for their sum.
func TestLogsOfAChain(t *testing.T) {
	dir := t.TempDir()
	info := base(t, nil, "x", dir, "0")
	for n := range 4 {
		path := filepath.Join(dir, fmt.Sprint(n))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		size, at := st.Size()+64*mib, st.Size()
		h, err := layout.ReadHeader(f)
		if err != nil {
			t.Fatal(err)
		}
		h.LogOffset, h.LogLength, h.LogGUID, h.Sequence = at, 64*mib, layout.GUID{1}, 9
		e := journal.Entry{GUID: h.LogGUID, Sequence: 1, Flushed: size, Last: size}
		_, err1 := f.WriteAt(e.Bytes(), at)
		_, err2 := f.WriteAt(h.Bytes(), layout.HeaderAt1)
		if err := errors.Join(f.Truncate(size), err1, err2, f.Close()); err != nil {
			t.Fatal(err)
		}
		info = child(t, nil, create.Parent{Info: info, Relative: `.\` + fmt.Sprint(n)}, dir, fmt.Sprint(n+1))
		d, err := open.Path(filepath.Join(dir, fmt.Sprint(n+1)), open.Options{Parents: []string{dir}})
		if n < 2 && err != nil || n >= 2 && (!errors.Is(err, vdisk.ErrUnsupported) || !strings.Contains(err.Error(), "merge")) {
			t.Errorf("%d parents with logs: %v", n+1, err)
		}
		if err == nil {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// An absolute path is not resolved before it is known to be allowed, only after: a
// link elsewhere that leads into an allowed folder is not followed.
func TestAbsolutePathsAreCompared(t *testing.T) {
	dir := t.TempDir()
	info := base(t, nil, "x", dir, "allowed", "sub", "base.vhdx")
	link(t, filepath.Join(dir, "allowed"), dir, "link")
	for path, want := range map[string]error{
		filepath.Join(dir, "allowed", "sub", "base.vhdx"): nil,
		filepath.Join(dir, "link", "sub", "base.vhdx"):    open.ErrNoParent,
	} {
		if runtime.GOOS == "windows" {
			t.Skip("paths of other systems are made here")
		}
		p := open.FindParents(filepath.Join(dir, "leaf"), filepath.Join(dir, "allowed"))
		if err := os.WriteFile(filepath.Join(dir, "leaf"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := p.Find(vdisk.Parent{Format: "vhdx", Links: []string{info.Link}, Paths: []vdisk.ParentPath{{Kind: vdisk.AbsolutePath, Path: path}}})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", path, err, want)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	// The folder may be given by the link, and the child have either form.
	for _, path := range []string{filepath.Join(dir, "allowed", "sub", "base.vhdx"), filepath.Join(dir, "link", "sub", "base.vhdx")} {
		p := open.FindParents(filepath.Join(dir, "leaf"), filepath.Join(dir, "link"))
		if _, err := p.Find(vdisk.Parent{Format: "vhdx", Paths: []vdisk.ParentPath{{Kind: vdisk.AbsolutePath, Path: path}}}); err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
