// Package folder is the driver for disk images that lie in the file system
// without a hypervisor to ask: a single image, or a folder of images that
// belong to one guest.
//
// Call [New] with a path, then Inspect. A file or block device is a guest with
// one disk. A folder is one guest whose disks are its files *.vhdx, *.avhdx, *.vhd, *.avhd,
// *.qcow2, *.raw and *.img, and others that have the signature of such an image, in the order of their
// names; only the folder itself is looked at. Whatever else is there is listed
// as unprotected. A file *.raw is raw whatever it contains, *.vhdx, *.vhd and *.qcow2 are
// what their names say or an error (*.avhdx and *.avhd are what Hyper-V calls a
// differencing VHDX or VHD), and any other is what its signature says, raw if it has none,
// except where the name promises a format that is not readable (*.vmdk): a damaged image must
// not pass for a raw disk. An image that cannot be opened is an error.
//
// A differencing image is a disk as its guest sees it: the merged view of the
// image and its parents, which may lie in the folder and below it and nowhere
// else. An image that others in the folder are laid on is no disk of its own, as
// its bytes are the others'. A source that is a single differencing image is
// refused: nobody said which folder its parents may be in. All files of a chain
// are held still together.
//
// A folder that has a folder "Virtual Machines" or "Virtual Hard Disks", or a file
// *.vmcx, is an export of Hyper-V: everything below it is looked at, not the folder
// alone. Name, id and the order of disks come from the machine's configuration, if
// vmconfig can read it; if not, that is said (Guest.Config, Guest.Unprotected), and the
// guest is taken from its files. What Guest.Config holds is a [Configuration].
//
// A guest that no hypervisor names gets its id from the vault and its path with
// links resolved (a block device keeps its links: the kernel renames devices),
// unless [Options] give one. Inside a folder, links are followed only to what
// lies inside it.
//
// Nobody can stop the writers of a file, so Freeze looks for proof that there
// are none and Changed that there were none:
//
//   - On Linux, a read lease. It is granted only when nobody has the file open
//     for writing, and broken when somebody opens it. The writer is let through
//     at once, and the freeze counts as changed.
//   - Where no lease can be had (a running guest has its disks open), size,
//     inode, mtime and ctime of the file held open and of its path. Writing
//     through a memory map stamps ctime when a clean page is first written, so
//     Freeze flushes the file to make its pages clean, and does so until the
//     stamps stay put for a quarter of a second. A write that had begun before
//     and takes longer than that is not seen; only the recheck may find it.
//   - Where that is not so (tmpfs, network file systems, block devices, other
//     systems than Linux), nothing proves anything; RecheckPercent is then 100.
//
// The package never writes to an image, and does not quiesce anything.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

// Options say whose guest it is. Either GuestID or Vault is needed.
type Options struct {
	GuestID id.Guest // the guest's id, when it has one from elsewhere
	Vault   id.Vault // the vault that the derived id belongs to
}

// Driver finds, freezes and opens the guest at one path. It is safe for use by
// many goroutines.
type Driver struct {
	path string
	o    Options
}

// New returns the driver for the image or folder at path. Nothing is opened yet.
func New(path string, o Options) *Driver {
	return &Driver{path: path, o: o}
}

var (
	_ hypervisor.Inspector = (*Driver)(nil)
	_ hypervisor.Freezer   = (*Driver)(nil)
	_ hypervisor.Opener    = (*Driver)(nil)
)

// Inspect returns the one guest that the path is.
func (d *Driver) Inspect(ctx context.Context) ([]hypervisor.Guest, error) {
	g, err := d.inspect(ctx)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", d.path, err)
	}
	return []hypervisor.Guest{g}, nil
}

func (d *Driver) inspect(ctx context.Context) (hypervisor.Guest, error) {
	path, mode, err := canonical(d.path)
	if err != nil {
		return hypervisor.Guest{}, err
	}
	g := hypervisor.Guest{ID: d.o.GuestID, Name: filepath.Base(path), Driver: "folder", Source: path}
	var tree *export
	found := []candidate{{key: g.Name, path: path, format: formatOf(path)}}
	if mode.IsDir() {
		exported, err := isExport(path)
		switch {
		case err != nil:
		case exported:
			if tree, err = readExport(ctx, path); err == nil {
				found = tree.found
				tree.identify(&g)
			}
		default:
			found, g.Unprotected, err = scan(path)
		}
		if err != nil {
			return g, err
		}
	}
	if g.ID.IsZero() {
		if d.o.Vault.IsZero() {
			return g, errors.New("neither a guest id nor a vault to derive it from")
		}
		g.ID = id.NewGuest(d.o.Vault, path)
	}
	if err := probe(ctx, found, parentFolders(path)); err != nil {
		return g, err
	}
	if tree != nil {
		g.Disks = tree.disks(g.ID)
		g.Unprotected = tree.rest
		if g.Config, err = tree.encode(); err != nil {
			return g, err
		}
	} else {
		for _, c := range leaves(found) {
			g.Disks = append(g.Disks, hypervisor.Disk{ID: id.NewDisk(g.ID, c.key), Key: c.key, Path: c.path, Info: c.info})
		}
	}
	if len(g.Disks) == 0 {
		return g, hypervisor.ErrNoDisks
	}
	return g, nil
}

// canonical returns the absolute path with links resolved, and what is there.
func canonical(path string) (string, fs.FileMode, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", 0, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", 0, err
	}
	if st.Mode()&fs.ModeDevice != 0 {
		return path, st.Mode(), nil
	}
	path, err = filepath.EvalSymlinks(path)
	return path, st.Mode(), err
}

// formatOf is the format that a file's name settles, or "".
func formatOf(path string) string {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".raw", ".vhdx", ".vhd", ".qcow2":
		return ext[1:]
	case ".avhdx", ".avhd":
		return ext[2:]
	}
	return ""
}

// promised is the format that a file's name promises and nothing here can read,
// or "".
func promised(path string) string {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".vmdk":
		return ext[1:]
	}
	return ""
}

// brokenPromise says what is the matter with a file that has no signature and
// whose name promises a format.
func brokenPromise(format string) string {
	return "its name promises " + format + ", but it has no such signature and is not readable; to back it up as a raw disk, rename it to .raw"
}

// Open opens a disk that Inspect returned, in the format it had then.
func (d *Driver) Open(ctx context.Context, disk hypervisor.Disk) (hypervisor.OpenDisk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	image, err := openImage(disk.Path, disk.Info.Format, parentFolders(d.path))
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", disk.Key, err)
	}
	return image, nil
}

// openImage opens the image at path by format, or by signature when it is "". A
// file without a signature is raw then, unless its name promises otherwise. Its
// parents are looked for in the folders given.
func openImage(path, format string, parents []string) (*open.Disk, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	image, err := open.File(f, open.Options{Format: format, Parents: parents})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if want := promised(path); want != "" && format == "" && image.Info().Format == "raw" {
		return nil, errors.Join(fmt.Errorf("%w: %s", vdisk.ErrUnsupported, brokenPromise(want)), image.Close())
	}
	return image, nil
}
