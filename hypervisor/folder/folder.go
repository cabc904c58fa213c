// Package folder is the driver for disk images that lie in the file system
// without a hypervisor to ask: a single image, or a folder of images that
// belong to one guest.
//
// Call [New] with a path, then Inspect. A file or block device is a guest with
// one disk. A folder is one guest whose disks are its files *.vhdx, *.avhdx, *.vhd, *.avhd,
// *.qcow2, *.raw and *.img, and others that have the signature of such an image, in the order of their
// names; only the folder itself is looked at. Whatever else is there is listed
// as unprotected. What a file is, package images says; one that cannot be opened is an error.
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
// alone, and its files are kept too, see package export. Name, id and the order of disks
// come from the machine's configuration, if vmconfig can read it; if not, that is said
// (Guest.Config), and the guest is taken from its files. What Guest.Config holds is an
// export.Configuration. The files are held still like disks, the configuration with them.
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
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/hypervisor/folder/images"
	"github.com/millrace-backup/millrace/id"
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
	exported := false
	if mode.IsDir() {
		if exported, err = export.Is(path); err != nil {
			return g, err
		}
	}
	if exported {
		err = d.inspectExport(ctx, &g, path)
	} else {
		err = d.inspectImages(ctx, &g, path, mode.IsDir())
	}
	if err != nil {
		return g, err
	}
	if len(g.Disks) == 0 {
		return g, noDisks(path, mode.IsDir() && !exported)
	}
	g.Unprotected = bounded(append(snapshots(g.Disks), g.Unprotected...))
	return g, distinct(g)
}

// snapshots lists the disks with snapshots inside their images, but those of which the
// whole file is kept.
func snapshots(disks []hypervisor.Disk) (out []hypervisor.Unprotected) {
	kept := map[string]bool{}
	for _, d := range disks {
		kept[d.Path] = kept[d.Path] || d.Carried
	}
	for _, d := range disks {
		if n := d.Info.Snapshots; n > 0 && !kept[d.Path] {
			out = append(out, hypervisor.Unprotected{Key: d.Key + " (snapshots)",
				Reason: fmt.Sprintf("%d snapshots inside the image; the disk is backed up as it is now, what they hold besides is not", n)})
		}
	}
	return out
}

// What is more than this of the list of what is not backed up is counted only: a point
// has to fit into a message, and a folder may be full of anything.
const (
	maxUnprotected      = 1000
	maxUnprotectedBytes = 1 << 20
)

// bounded is a list of which the last entry counts what is left out of it.
func bounded(all []hypervisor.Unprotected) []hypervisor.Unprotected {
	bytes := 0
	for n, u := range all {
		if bytes += len(u.Key) + len(u.Reason); n == maxUnprotected || bytes > maxUnprotectedBytes {
			more := hypervisor.Unprotected{Key: fmt.Sprintf("%d more", len(all)-n), Reason: "there are too many to list, of which this is the first: " + filepath.Base(u.Key)}
			return append(slices.Clone(all[:n]), more)
		}
	}
	return all
}

// noDisks is ErrNoDisks. Whoever names the folder that machines were exported into means
// these, and not a guest of this name.
func noDisks(path string, plain bool) error {
	entries, err := os.ReadDir(path)
	if err != nil || !plain {
		return hypervisor.ErrNoDisks
	}
	var inside []string
	for _, e := range entries {
		if is, err := export.Is(filepath.Join(path, e.Name())); err == nil && is && len(inside) < 10 {
			inside = append(inside, e.Name())
		}
	}
	if len(inside) == 0 {
		return hypervisor.ErrNoDisks
	}
	return fmt.Errorf("%w: there are exported machines in it, name each of them: %s", hypervisor.ErrNoDisks, strings.Join(inside, ", "))
}

// distinct makes sure that no two disks pass for each other, and that every path reaches
// the processes that are to open it.
func distinct(g hypervisor.Guest) error {
	ids := map[id.Disk]string{}
	for _, d := range g.Disks {
		if other, taken := ids[d.ID]; taken {
			return fmt.Errorf("disks %s and %s have the same id", other, d.Path)
		}
		ids[d.ID] = d.Path
		if !utf8.ValidString(d.Path) {
			return fmt.Errorf("disk %q: its path is not UTF-8: rename it", d.Path)
		}
	}
	return nil
}

func (d *Driver) inspectExport(ctx context.Context, g *hypervisor.Guest, path string) error {
	tree, err := export.Read(ctx, path)
	if err != nil {
		return err
	}
	tree.Identify(g)
	if err := d.identify(g, path); err != nil {
		return err
	}
	return tree.Describe(g)
}

func (d *Driver) inspectImages(ctx context.Context, g *hypervisor.Guest, path string, isFolder bool) (err error) {
	found := []images.Image{images.At(g.Name, path)}
	if isFolder {
		if found, g.Unprotected, err = images.Scan(path); err != nil {
			return err
		}
	}
	if err := d.identify(g, path); err != nil {
		return err
	}
	if err := images.Probe(ctx, found, images.Folders(path)); err != nil {
		return err
	}
	for _, m := range images.Leaves(found) {
		g.Disks = append(g.Disks, hypervisor.Disk{ID: id.NewDisk(g.ID, m.Key), Key: m.Key, Path: m.Path, Info: m.Info})
	}
	return nil
}

// identify gives a guest without an id the one of its path.
func (d *Driver) identify(g *hypervisor.Guest, path string) error {
	if !g.ID.IsZero() {
		return nil
	}
	if d.o.Vault.IsZero() {
		return errors.New("neither a guest id nor a vault to derive it from")
	}
	g.ID = id.NewGuest(d.o.Vault, path)
	return nil
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

// Open opens a disk that Inspect returned, in the format it had then.
func (d *Driver) Open(ctx context.Context, disk hypervisor.Disk) (hypervisor.OpenDisk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	image, err := images.Open(disk.Path, disk.Info.Format, images.Folders(d.path))
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", disk.Key, err)
	}
	return image, nil
}
