package folder_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// TestBlockDevice backs a loop device up through a link, as those of a volume
// manager are, and the file beneath it, which the device holds open for writing.
func TestBlockDevice(t *testing.T) {
	losetup, err := exec.LookPath("losetup")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs losetup and root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	b := image(5<<20+512, 4)
	copy(b, "QFI\xfb") // a device is raw, whatever its guest wrote on it
	copy(b[len(b)-512:], "conectix")
	file := put(t, filepath.Join(dir, "disk.raw"), b)
	out, err := exec.Command(losetup, "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("needs a loop device: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command(losetup, "--detach", device).Run() })
	link := filepath.Join(dir, "volume")
	must(t, os.Symlink(device, link))

	d := folder.New(link, options)
	guests, err := d.Inspect(t.Context())
	must(t, err)
	g := guests[0]
	if g.Source != link || g.ID != id.NewGuest(options.Vault, link) || g.Disks[0].Info.VirtualSize != int64(len(b)) {
		t.Errorf("%+v", g)
	}
	f := freeze(t, d, g, hypervisor.AppPreferred)
	if f.Consistency != hypervisor.CrashConsistent || f.RecheckPercent != 100 || f.Reason == "" {
		t.Errorf("%+v", f)
	}
	image, err := d.Open(t.Context(), g.Disks[0])
	must(t, err)
	vdisktest.Run(t, image, vdisktest.FromBytes(b))
	must(t, image.Close())
	must(t, f.Changed(t.Context()))
	must(t, os.Remove(link))
	must(t, os.Symlink("/dev/null", link))
	if err := f.Changed(t.Context()); !errors.Is(err, hypervisor.ErrChanged) {
		t.Errorf("another device at the path: %v", err)
	}

	beneath := folder.New(file, options)
	guests, err = beneath.Inspect(t.Context())
	must(t, err)
	if f := freeze(t, beneath, guests[0], hypervisor.CrashOnly); f.Consistency != hypervisor.CrashConsistent {
		t.Errorf("a file under a loop device: %+v", f)
	}
}
