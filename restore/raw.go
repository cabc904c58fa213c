package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/restore/part"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/direct"
)

// RawOptions are Options, what the file is to be, and whether what is there may go.
type RawOptions struct {
	Options
	// Image begins an image of another format in a new file; nil: the file is the
	// disk, byte for byte. What it cannot hold is vdisk.ErrUnsupported, and ErrForm
	// is what the caller sees.
	Image func(f vdisk.File, d events.PointDisk) (Image, error)
	// Force lets the new file take the place of an ordinary file that is there.
	// It does so in one step, when the new one is whole: until then, and if the
	// restore fails, the old one stays.
	Force bool
}

// Image is a disk image that is being written: a target, which Finish makes a
// valid, durable file of its format. Until then nobody takes it for one.
type Image interface {
	Target
	Finish() error
}

// Raw restores d into a sparse raw disk file at path, or into an image (o.Image). ErrExists if something is
// there and Force is off, ErrNotFile if that is no ordinary file.
//
// The file is written under a temp name beside path, synced, then renamed without
// replacing anything, and the folder is synced. If Raw fails nothing is left; a
// process that dies leaves at most the temp, called ".NAME.*.part", which the next
// Raw to the same path removes. The file can be read and written by its owner
// alone: it is the inside of a machine.
func Raw(ctx context.Context, v *vault.Vault, d events.PointDisk, path string, o RawOptions) error {
	fail := func(err error) error { return fmt.Errorf("restore disk %s to %s: %w", d.Key, path, err) }
	if err := free(path, o.Force); err != nil {
		return fail(err)
	}
	f, err := part.Create(path)
	if err != nil {
		return fail(err)
	}
	temp := f.Name()
	if err := Into(ctx, v, d, f, o); err != nil {
		_ = f.Close()
		_ = os.Remove(temp)
		return fail(err)
	}
	if err := appear(temp, path, o.Force); err != nil {
		_ = os.Remove(temp)
		return fail(err)
	}
	return nil
}

// Into restores d into f, an empty file that the caller then gives its name, as o.Image
// wants it. It syncs and closes f; after an error f may be open still.
func Into(ctx context.Context, v *vault.Vault, d events.PointDisk, f *os.File, o RawOptions) error {
	if o.Image != nil {
		return fillImage(ctx, v, d, f, o)
	}
	return fill(ctx, v, d, f, o)
}

// free reports whether a file may be made at path.
func free(path string, force bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return ErrNotFile
	case !force:
		return ErrExists
	}
	return nil
}

// fill writes the disk into f, syncs and closes it.
func fill(ctx context.Context, v *vault.Vault, d events.PointDisk, f *os.File, o RawOptions) error {
	if !d.Carried { // it may be an image: see fillImage
		if err := part.Sparse(f); err != nil {
			return err
		}
	}
	if err := f.Truncate(d.Size); err != nil {
		return err
	}
	to := direct.New(f)
	if err := Disk(ctx, v, d, to, o.Options); err != nil {
		_ = to.Close()
		return err
	}
	if err := to.Sync(); err != nil {
		_ = to.Close()
		return err
	}
	return to.Close()
}

// fillImage writes the disk into f as an image, which syncs, and closes f. Of
// Windows' own accord the file is not sparse: Hyper-V attaches no image that is.
func fillImage(ctx context.Context, v *vault.Vault, d events.PointDisk, f *os.File, o RawOptions) error {
	to := direct.New(f)
	image, err := o.Image(to, d)
	switch {
	case errors.Is(err, vdisk.ErrUnsupported):
		err = fmt.Errorf("%w: %v", ErrForm, err)
	case err == nil:
		if err = Disk(ctx, v, d, image, o.Options); err == nil {
			err = image.Finish()
		}
	}
	if err != nil {
		_ = to.Close()
		return err
	}
	return to.Close()
}

// appear gives the whole, synced file its name. A crash before leaves a temp, one
// after the whole file.
func appear(temp, path string, force bool) error {
	disk := dir.OS()
	var err error
	if force {
		if err = free(path, force); err == nil {
			err = disk.Rename(temp, path)
		}
	} else {
		err = disk.Publish(temp, path)
	}
	if errors.Is(err, fs.ErrExist) && !errors.Is(err, ErrExists) {
		err = ErrExists
	}
	if err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}
