package folder_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

var options = folder.Options{Vault: id.Vault{1, 2, 3}}

// image returns a disk of the given size with data in places.
func image(size int64, seed uint64) []byte {
	b := make([]byte, size)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 5 {
		off := rnd.Int64N(size - 5000)
		for i := range int64(5000) {
			b[off+i] = byte(rnd.Uint32())
		}
	}
	return b
}

func put(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func overwrite(path string, off int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	return errors.Join(err, f.Close())
}

func TestDriver(t *testing.T) {
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("open for writing %v", held), func(t *testing.T) {
			drivertest.Run(t, func(tb testing.TB) drivertest.Subject {
				dir := tb.TempDir()
				s := drivertest.Subject{Want: map[string]vdisk.Image{}}
				for i, name := range []string{"a.img", "b.raw", "c.IMG"} {
					b := image(int64(i+1)*1_000_003, uint64(i))
					put(tb, filepath.Join(dir, name), b)
					s.Want[name] = vdisktest.FromBytes(b)
				}
				put(tb, filepath.Join(dir, "notes.txt"), []byte("no disk"))
				if held {
					f, err := os.OpenFile(filepath.Join(dir, "b.raw"), os.O_RDWR, 0)
					if err != nil {
						tb.Fatal(err)
					}
					tb.Cleanup(func() { _ = f.Close() })
				}
				s.Driver = folder.New(dir, options)
				s.Again = func() drivertest.Driver { return folder.New(dir, options) }
				s.Write = func(key string, off int64, b []byte) error { return overwrite(filepath.Join(dir, key), off, b) }
				return s
			})
		})
	}
}

func TestDriverOnOneImage(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("needs qemu-img")
	}
	drivertest.Run(t, func(tb testing.TB) drivertest.Subject {
		b := image(20<<20, 9)
		flat := put(tb, filepath.Join(tb.TempDir(), "flat"), b)
		path := filepath.Join(tb.TempDir(), "web.vhdx")
		if out, err := exec.Command(qemu, "convert", "-f", "raw", "-O", "vhdx", flat, path).CombinedOutput(); err != nil {
			tb.Fatalf("%v\n%s", err, out)
		}
		return drivertest.Subject{
			Driver: folder.New(path, options),
			Again:  func() drivertest.Driver { return folder.New(path, options) },
			Want:   map[string]vdisk.Image{"web.vhdx": vdisktest.FromBytes(b)},
			Write: func(_ string, _ int64, b []byte) error {
				return overwrite(path, 8, b) // the creator field: the image stays readable
			},
		}
	})
}

func TestInspect(t *testing.T) {
	root := t.TempDir()
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "web")
	for _, d := range []string{dir, filepath.Join(dir, "Snapshots")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	disk := image(100_000, 1)
	put(t, filepath.Join(root, "outside.raw"), disk)
	put(t, filepath.Join(dir, "data.img"), disk)
	put(t, filepath.Join(dir, "Snapshots", "deep.raw"), disk)
	put(t, filepath.Join(dir, "boot.raw"), append([]byte("QFI\xfb"), disk...)) // raw by its name
	put(t, filepath.Join(dir, "old.vmdk"), append([]byte("KDMV"), disk...))
	put(t, filepath.Join(dir, "README"), []byte("hello"))
	for name, target := range map[string]string{
		"escape.raw":  "../outside.raw",
		"beside.raw":  "data.img",
		"deep.raw":    "Snapshots/deep.raw",
		"nowhere.raw": "gone",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Skipf("needs symbolic links: %v", err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(root, "alias")); err != nil {
		t.Fatal(err)
	}

	guests, err := folder.New(filepath.Join(root, "alias"), options).Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := guests[0]
	if g.Name != "web" || g.Source != dir || g.ID != id.NewGuest(options.Vault, dir) || len(guests) != 1 {
		t.Errorf("guest %+v", g)
	}
	var keys []string
	for _, d := range g.Disks {
		keys = append(keys, d.Key+"="+d.Info.Format)
		if d.ID != id.NewDisk(g.ID, d.Key) {
			t.Errorf("disk %s has id %s", d.Key, d.ID)
		}
	}
	if got, want := strings.Join(keys, " "), "boot.raw=raw data.img=raw deep.raw=raw"; got != want {
		t.Errorf("disks %s, want %s", got, want)
	}
	var rest []string
	for _, u := range g.Unprotected {
		rest = append(rest, u.Key+": "+u.Reason)
	}
	want := `Snapshots: a folder; only the files of the guest's own folder are disks
beside.raw: a link to data.img beside it
escape.raw: a link that leaves the guest's folder, to ` + filepath.Join(root, "outside.raw") + `
nowhere.raw: a link that leads nowhere: lstat ` + filepath.Join(dir, "gone") + `: no such file or directory
old.vmdk: a disk image of format vmdk, which is not supported
README: neither the name nor the signature of a disk image`
	if got := strings.Join(rest, "\n"); got != want && runtime.GOOS == "linux" {
		t.Errorf("unprotected\n%s\nwant\n%s", got, want)
	}
}

func TestGuestIDs(t *testing.T) {
	path := put(t, filepath.Join(t.TempDir(), "web"), image(10_000, 1))
	named := id.Guest{9}
	for _, c := range []struct {
		o    folder.Options
		want id.Guest
	}{
		{folder.Options{GuestID: named}, named},
		{folder.Options{GuestID: named, Vault: options.Vault}, named},
	} {
		g, err := folder.New(path, c.o).Inspect(t.Context())
		if err != nil || g[0].ID != c.want {
			t.Errorf("%+v: %v, %v", c.o, g, err)
		}
	}
	if _, err := folder.New(path, folder.Options{}).Inspect(t.Context()); err == nil {
		t.Error("a guest without any id")
	}
	a, _ := folder.New(path, options).Inspect(t.Context())
	b, _ := folder.New(path, folder.Options{Vault: id.Vault{7}}).Inspect(t.Context())
	if a[0].ID == b[0].ID {
		t.Error("two vaults have the same id for a guest")
	}
}

func TestInspectErrors(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	vmdk := put(t, filepath.Join(dir, "disk.img"), []byte("KDMV and more"))
	torn := filepath.Join(dir, "torn")
	if err := os.Mkdir(torn, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(torn, "sys.vhdx"), []byte("vhdxfile"))
	for _, c := range []struct {
		path string
		want error
		text string
	}{
		{filepath.Join(dir, "none"), os.ErrNotExist, "none"},
		{empty, hypervisor.ErrNoDisks, empty},
		{vmdk, vdisk.ErrUnsupported, "vmdk"},
		{torn, vdisk.ErrTruncated, "sys.vhdx"},
	} {
		_, err := folder.New(c.path, options).Inspect(t.Context())
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %v about %s", c.path, err, c.want, c.text)
		}
	}
}

// A damaged image must not pass for a raw disk: what its name says counts.
func TestNamesThatPromiseAFormat(t *testing.T) {
	zeroed := append(make([]byte, 64<<10), image(100_000, 1)...)
	for _, c := range []struct {
		name    string
		content []byte
		want    error // nil: a raw disk
		text    string
	}{
		{"web.vhdx", nil, vdisk.ErrTruncated, "web.vhdx"},
		{"web.vhdx", []byte("vhdxf"), vdisk.ErrTruncated, "web.vhdx"},
		{"web.VHDX", zeroed, vdisk.ErrFormat, "web.VHDX"},
		{"web.Vhdx", append([]byte("QFI\xfb"), zeroed...), vdisk.ErrFormat, "web.Vhdx"},
		{"web.vhd", zeroed, vdisk.ErrFormat, "web.vhd"},
		{"web.QCOW2", zeroed, vdisk.ErrFormat, "web.QCOW2"},
		{"web.qcow2", nil, vdisk.ErrTruncated, "web.qcow2"},
		{"web.vmdk", zeroed, vdisk.ErrUnsupported, "promises vmdk,"},
		{"web.VMDK", nil, vdisk.ErrUnsupported, "rename it to .raw"},
		{"web.raw", append([]byte("vhdxfile"), zeroed...), nil, ""},
		{"web.RAW", zeroed, nil, ""},
		{"web.vdi", zeroed, vdisk.ErrUnsupported, "promises vdi,"},
		{"web.qed", zeroed, vdisk.ErrUnsupported, "promises qed,"},
		{"web.vhds", zeroed, vdisk.ErrUnsupported, "a shared VHD set"},
		{"web.img", zeroed, nil, ""},
		{"web", zeroed, nil, ""},
	} {
		t.Run(fmt.Sprintf("%s of %d bytes", c.name, len(c.content)), func(t *testing.T) {
			check := func(g []hypervisor.Guest, err error) {
				t.Helper()
				if c.want == nil && (err != nil || g[0].Disks[0].Info.Format != "raw") {
					t.Errorf("got %+v, %v; want a raw disk", g, err)
				}
				if c.want != nil && (!errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text)) {
					t.Errorf("got %+v, %v; want %v saying %q", g, err, c.want, c.text)
				}
			}
			dir := t.TempDir()
			path := put(t, filepath.Join(dir, c.name), c.content)
			check(folder.New(path, options).Inspect(t.Context()))
			if filepath.Ext(c.name) == "" {
				return // in a folder it is no disk
			}
			g, err := folder.New(dir, options).Inspect(t.Context())
			if !errors.Is(c.want, vdisk.ErrUnsupported) {
				check(g, err)
				return
			}
			// As an intact image of the format, it is left out and said to be.
			put(t, filepath.Join(dir, "sys.raw"), zeroed)
			g, err = folder.New(dir, options).Inspect(t.Context())
			if err != nil || len(g[0].Disks) != 1 || len(g[0].Unprotected) != 1 || !strings.Contains(g[0].Unprotected[0].Reason, c.text) {
				t.Errorf("in a folder: %+v, %v", g, err)
			}
		})
	}
}

// All bytes of a raw disk are its guest's, a signature is nothing to go by.
func TestSignaturesInRawDisks(t *testing.T) {
	dir := t.TempDir()
	content := append([]byte("QFI\xfb\x00\x00\x00\x03"), image(100_000, 1)...)
	copy(content[len(content)-512:], "conectix")
	for name, want := range map[string]string{
		"web.img": "rename it to .raw or to .qcow2", "web.IMG": "", "web.raw": "raw",
	} {
		g, err := folder.New(put(t, filepath.Join(dir, name), content), options).Inspect(t.Context())
		if want == "raw" {
			if err != nil || g[0].Disks[0].Info.Format != "raw" || g[0].Disks[0].Info.VirtualSize != int64(len(content)) {
				t.Errorf("%s: %+v, %v", name, g, err)
			}
			continue
		}
		if !errors.Is(err, vdisk.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
	fixed := append(image(100_000, 2), content[len(content)-512:]...)
	if _, err := folder.New(put(t, filepath.Join(dir, "end.img"), fixed), options).Inspect(t.Context()); !errors.Is(err, vdisk.ErrUnsupported) || !strings.Contains(err.Error(), ".vhd,") {
		t.Errorf("a footer at the end: %v", err)
	}
}
