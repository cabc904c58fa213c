package qemu

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
)

// image is a frozen disk while it is read.
type image struct {
	nbd.Image
	d *Driver
}

// open opens a disk of a guest that is frozen in the name of the driver's job, to be asked
// about the contexts that are given. QEMU looks into all of them at each question.
func (d *Driver) open(ctx context.Context, disk hypervisor.Disk, contexts ...string) (*image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dial := func(context.Context) (net.Conn, error) {
		conn, err := host.Dial(d.socket())
		if err != nil {
			return nil, fmt.Errorf("reach QEMU's NBD server: %w", err)
		}
		return conn, nil
	}
	c, err := nbd.Dial(ctx, dial, nbd.Options{Export: d.export(disk.Key), Contexts: contexts, Timeout: readLimit})
	if err != nil {
		return nil, err
	}
	return &image{Image: nbd.Image{Client: c}, d: d}, nil
}

// readLimit is how long QEMU may take for one read: a guest's disk may be very slow, and
// then its guest knows it too.
const readLimit = 2 * time.Minute

// ReadAt reads from the view. One that has broken says only that it refuses.
func (i *image) ReadAt(p []byte, off int64) (int, error) {
	n, err := i.Image.ReadAt(p, off)
	if err == nil {
		return n, nil // what follows allocates
	}
	var refused nbd.Errno
	if errors.As(err, &refused) && (refused == nbd.EINVAL || refused == nbd.EPERM) {
		err = fmt.Errorf("%w: the view of the instant has broken: the guest overwrites faster than its old data can be kept in %s, or there is no room left: %w",
			hypervisor.ErrChanged, i.d.o.Fleece, err)
	}
	return n, err
}

// Changes lists what has changed since the bitmap of the point before began.
func (d *Driver) Changes(ctx context.Context, disk hypervisor.Disk) iter.Seq2[hypervisor.Range, error] {
	return func(yield func(hypervisor.Range, error) bool) {
		if err := d.changes(ctx, disk, yield); err != nil {
			yield(hypervisor.Range{}, fmt.Errorf("disk %s: what has changed: %w", disk.Key, err))
		}
	}
}

func (d *Driver) changes(ctx context.Context, disk hypervisor.Disk, yield func(hypervisor.Range, error) bool) (err error) {
	changed := nbd.DirtyBitmap(d.changed())
	im, err := d.open(ctx, disk, changed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	for s, err := range im.BlockStatus(ctx, changed, 0, im.Size()) {
		if err != nil {
			return err
		}
		if s.Flags&nbd.Dirty != 0 && !yield(hypervisor.Range{Offset: s.Offset, Length: s.Length}, nil) {
			return nil
		}
	}
	return nil
}
