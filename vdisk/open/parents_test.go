package open_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

const mib = 1 << 20

// same is a source of ids that are all alike.
type same byte

func (s same) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s)
	}
	return len(p), nil
}

func newFile(t *testing.T, elements ...string) *os.File {
	t.Helper()
	path := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// base makes a VHDX disk with a word at its beginning.
func base(t *testing.T, ids io.Reader, word string, path ...string) vdisk.Info {
	t.Helper()
	disk := vdisktest.NewSparse(8 * mib)
	_, _ = disk.WriteAt([]byte(word), 0)
	_, _ = disk.WriteAt([]byte("base"), 5*mib)
	f := newFile(t, path...)
	defer f.Close()
	if err := create.Disk(t.Context(), f, disk, create.Options{BlockSize: mib, Random: ids}); err != nil {
		t.Fatal(err)
	}
	d, err := open.Path(f.Name(), open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return d.Info()
}

// child makes an image that has nothing itself, and returns its info.
func child(t *testing.T, ids io.Reader, parent create.Parent, path ...string) vdisk.Info {
	t.Helper()
	f := newFile(t, path...)
	defer f.Close()
	if err := create.Child(t.Context(), f, create.Nothing(8*mib), parent, create.Options{Random: ids}); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 4096)
	if _, err := f.ReadAt(header, 64<<10); err != nil {
		t.Fatal(err)
	}
	b := header[32:48]
	i := parent.Info
	i.Link = fmt.Sprintf("%x-%x-%x-%x-%x", []byte{b[3], b[2], b[1], b[0]}, []byte{b[5], b[4]}, []byte{b[7], b[6]}, b[8:10], b[10:])
	return i
}

func first(t *testing.T, d vdisk.Image) string {
	t.Helper()
	p := make([]byte, 8)
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(p, "\x00"))
}

func TestChain(t *testing.T) {
	dir := t.TempDir()
	info := base(t, nil, "one", dir, "vm", "base.vhdx")
	info = child(t, nil, create.Parent{Info: info, Relative: `..\vm\base.vhdx`, Absolute: `\\?\C:\vm\base.vhdx`}, dir, "snap", "a.avhdx")
	child(t, nil, create.Parent{Info: info, Relative: `.\a.avhdx`}, dir, "snap", "b.avhdx")
	d, err := open.Path(filepath.Join(dir, "snap", "b.avhdx"), open.Options{Parents: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	layers := d.Layers()
	if len(layers) != 3 || filepath.Base(layers[0].Path) != "b.avhdx" || filepath.Base(layers[1].Path) != "a.avhdx" || filepath.Base(layers[2].Path) != "base.vhdx" ||
		layers[0].Info.Variant != "differencing" || layers[2].Info.Variant != "dynamic" {
		t.Errorf("layers %+v", layers)
	}
	want := vdisktest.NewSparse(8 * mib)
	_, _ = want.WriteAt([]byte("one"), 0)
	_, _ = want.WriteAt([]byte("base"), 5*mib)
	vdisktest.Run(t, d, want)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.Layers()[0].Image.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("read after closing")
	}
}

// What of a child's words is believed, and where they lead.
func TestWhereParentsAre(t *testing.T) {
	for _, c := range []struct {
		name  string
		paths create.Parent
		make  func(t *testing.T, dir string) // more files; the base is in dir/vm, the child in dir/snap
		allow string                         // folders below dir
		want  error
	}{
		{"relative", create.Parent{Relative: `..\vm\base.vhdx`}, nil, "vm", nil},
		{"relative with slashes", create.Parent{Relative: `../vm/base.vhdx`}, nil, "vm", nil},
		{"its name", create.Parent{Absolute: `\\?\D:\elsewhere\base.vhdx`}, nil, "vm", nil},
		{"its name, by volume", create.Parent{Volume: `\\?\Volume{01234567-89ab-cdef-0123-456789abcdef}\x\base.vhdx`}, nil, "vm", nil},
		{"stale relative path", create.Parent{Relative: `..\old\base.vhdx`}, nil, "vm", nil},
		{"in other capitals", create.Parent{Relative: `..\VM\Base.VHDX`}, nil, ".", nil},
		{"its name in other capitals", create.Parent{Absolute: `\\?\D:\elsewhere\BASE.vhdx`}, nil, "vm", nil},
		{"several in other capitals", create.Parent{Relative: `.\LEAF2.vhdx`}, func(t *testing.T, dir string) {
			if runtime.GOOS != "linux" {
				t.Skip("needs a file system that tells capitals from small letters")
			}
			for _, name := range []string{"leaf2.vhdx", "Leaf2.vhdx"} {
				base(t, nil, "wrong", dir, "snap", name)
			}
		}, "snap", open.ErrNoParent},
		{"nothing allowed", create.Parent{Relative: `..\vm\base.vhdx`}, nil, "", vdisk.ErrUnsupported},
		{"another folder allowed", create.Parent{Relative: `..\vm\base.vhdx`}, nil, "snap", open.ErrNoParent},
		{"no such file", create.Parent{Relative: `..\vm\bass.vhdx`}, nil, "vm snap", open.ErrNoParent},
		{"a name that is none", create.Parent{Relative: `..\vm\..`}, nil, "vm", open.ErrNoParent},
		{"a stream", create.Parent{Relative: `..\vm\base.vhdx:x`}, nil, "vm", open.ErrNoParent},
		{"a folder", create.Parent{Relative: `..\vm`}, nil, ".", open.ErrWrongParent},
		{"a wrong one first", create.Parent{Relative: `.\base.vhdx`}, func(t *testing.T, dir string) {
			base(t, nil, "wrong", dir, "snap", "base.vhdx")
		}, "snap vm", nil},
		{"only a wrong one", create.Parent{Relative: `.\base.vhdx`}, func(t *testing.T, dir string) {
			base(t, nil, "wrong", dir, "snap", "base.vhdx")
		}, "snap", open.ErrWrongParent},
		{"no signature", create.Parent{Relative: `.\disk.raw`}, func(t *testing.T, dir string) {
			_ = newFile(t, dir, "snap", "disk.raw").Close()
		}, "snap", vdisk.ErrTruncated},
		{"a link that leads out", create.Parent{Relative: `.\link.vhdx`}, func(t *testing.T, dir string) {
			link(t, filepath.Join("..", "vm", "base.vhdx"), dir, "snap", "link.vhdx")
		}, "snap", open.ErrWrongParent},
		{"a link that stays inside", create.Parent{Relative: `.\link.vhdx`}, func(t *testing.T, dir string) {
			link(t, filepath.Join("..", "vm", "base.vhdx"), dir, "snap", "link.vhdx")
		}, ".", nil},
		{"a folder that leads out", create.Parent{Relative: `.\out\base.vhdx`}, func(t *testing.T, dir string) {
			link(t, filepath.Join("..", "vm"), dir, "snap", "out")
		}, "snap", open.ErrWrongParent},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.paths.Info = base(t, nil, "right", dir, "vm", "base.vhdx")
			child(t, nil, c.paths, dir, "snap", "leaf.avhdx")
			if c.make != nil {
				c.make(t, dir)
			}
			var allow []string
			for name := range strings.FieldsSeq(c.allow) {
				allow = append(allow, filepath.Join(dir, name))
			}
			d, err := open.Path(filepath.Join(dir, "snap", "leaf.avhdx"), open.Options{Parents: allow})
			if err == nil {
				defer d.Close()
			}
			if c.want == nil && err == nil {
				if got := first(t, d); got != "right" {
					t.Errorf("the parent begins with %q", got)
				}
			} else if c.want == nil || !errors.Is(err, c.want) && !(c.want == open.ErrWrongParent && err != nil && strings.Contains(err.Error(), "escapes")) {
				t.Errorf("%v; want %v", err, c.want)
			}
		})
	}
}

func link(t *testing.T, to string, at ...string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(at...)); err != nil {
		t.Skipf("needs symbolic links: %v", err)
	}
}

// Chains without an end, and longer than any that was made.
func TestEndless(t *testing.T) {
	dir := t.TempDir()
	info := base(t, same(1), "x", dir, "base.vhdx") // all images get its id
	child(t, same(1), create.Parent{Info: info, Relative: `.\self.avhdx`}, dir, "self.avhdx")
	child(t, same(1), create.Parent{Info: info, Relative: `.\b.avhdx`}, dir, "a.avhdx")
	child(t, same(1), create.Parent{Info: info, Relative: `.\a.avhdx`}, dir, "b.avhdx")
	for _, name := range []string{"self.avhdx", "a.avhdx"} {
		if _, err := open.Path(filepath.Join(dir, name), open.Options{Parents: []string{dir}}); !errors.Is(err, open.ErrWrongParent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	child(t, same(1), create.Parent{Info: info, Relative: `.\base.vhdx`}, dir, "0")
	for n := range 70 {
		child(t, same(1), create.Parent{Info: info, Relative: fmt.Sprintf(`.\%d`, n)}, dir, fmt.Sprint(n+1))
	}
	d, err := open.Path(filepath.Join(dir, "60"), open.Options{Parents: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	if got := first(t, d); got != "x" || len(d.Layers()) != 62 {
		t.Errorf("%q through %d layers", got, len(d.Layers()))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := open.Path(filepath.Join(dir, "70"), open.Options{Parents: []string{dir}}); !errors.Is(err, vdisk.ErrUnsupported) {
		t.Errorf("too long: %v", err)
	}
}

// A raw parent is one only if the child says so.
func TestRawParent(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "base.raw"), append([]byte("vhdxfile"), make([]byte, mib)...), 0o600); err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(dir, "leaf.qcow2")
	vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", leaf)
	d, err := open.Path(leaf, open.Options{Parents: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := first(t, d); got != "vhdxfile" || d.Layers()[1].Info.Format != "raw" {
		t.Errorf("%q from %+v", got, d.Layers())
	}
}

// A qcow2 image names its parent by a path and no id. A file of the same name at another
// place is another disk for all that can be told: it is not taken for the parent, wherever
// that is, or is not.
func TestNamesakeIsNoParent(t *testing.T) {
	for name, backing := range map[string]func(root string) string{
		"outside, absolute": func(root string) string { return filepath.Join(root, "elsewhere", "base.qcow2") },
		"outside, relative": func(string) string { return "../../elsewhere/base.qcow2" },
		"another folder":    func(string) string { return "../kept/base.qcow2" },
	} {
		root := t.TempDir()
		for _, folder := range []string{"vm/a", "vm/kept", "elsewhere"} {
			if err := os.MkdirAll(filepath.Join(root, folder), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for _, at := range []string{"vm/a/base.qcow2", "vm/base.qcow2", "vm/kept/base.qcow2", "elsewhere/base.qcow2"} {
			file := filepath.Join(root, at)
			vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", file, "1M")
			vdisktest.Tool(t, "qemu-io", "-c", fmt.Sprintf("write -P %d 0 64k", at[3]), file)
		}
		leaf := filepath.Join(root, "vm", "a", "leaf.qcow2")
		vdisktest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", backing(root), "-F", "qcow2", leaf)
		for _, folders := range [][]string{{filepath.Join(root, "vm")}, {filepath.Join(root, "vm", "a"), filepath.Join(root, "vm")}} {
			d, err := open.Path(leaf, open.Options{Parents: folders})
			if name == "another folder" {
				if err != nil {
					t.Fatal(err)
				}
				if got := d.Layers()[1].Path; filepath.Base(filepath.Dir(got)) != "kept" {
					t.Errorf("%s in %v: the parent is %s", name, folders, got)
				}
				d.Close()
				continue
			}
			if !errors.Is(err, open.ErrNoParent) || !strings.Contains(err.Error(), "rebase") {
				t.Errorf("%s in %v: %v, want no parent", name, folders, err)
			}
			if err == nil {
				d.Close()
			}
		}
		// Gone from its place, it is not replaced by a namesake.
		if name == "another folder" {
			if err := os.Remove(filepath.Join(root, "vm", "kept", "base.qcow2")); err != nil {
				t.Fatal(err)
			}
			if _, err := open.Path(leaf, open.Options{Parents: []string{filepath.Join(root, "vm")}}); !errors.Is(err, open.ErrNoParent) {
				t.Errorf("%s: %v, want no parent", name, err)
			}
		}
	}
}
