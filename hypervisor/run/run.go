// Package run backs up what a guest has written while it ran straight from a point: a
// driver whose guest is off and whose disks a run still serves, for reading only.
//
// Who ends the run writes an [Offer] into a file, and names the file as the guest's source.
// It tells which point the run began at, where each disk is served, and which ranges were
// written since: they are all that has changed, so that the new point costs what the guest
// wrote. Nobody can write to such a disk, so the freeze needs nothing, and is taken up
// again by reading the file.
//
// Ranges are in a file of their own, pairs of offset and length, eight bytes each, little
// end first, in order; the offer has its SHA-256. Neither is trusted: bounds are checked
// and a hash that differs is an error, as a range that is missing would be data that is
// lost.
package run

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
)

// Name is the driver's.
const Name = "run"

// FileName is what an offer's file is called.
const FileName = "offer.json"

// Kind is how changes are known.
const Kind = "overlay"

// granularity is the unit of an overlay, in bytes: a sector.
const granularity = 512

const maxFile = 64 << 20

// Offer is what is to be backed up.
type Offer struct {
	Guest       id.Guest `json:"guest"`
	Name        string   `json:"name"`
	Config      []byte   `json:"config,omitempty"`
	Socket      string   `json:"socket"` // of the NBD server
	Consistency string   `json:"consistency"`
	Reason      string   `json:"reason,omitempty"`
	Disks       []Disk   `json:"disks"`
}

// Disk is one of the guest's.
type Disk struct {
	ID     id.Disk    `json:"disk"`
	Key    string     `json:"key"`
	Export string     `json:"export"` // its name on the server, which may have a part of a sector more
	Info   vdisk.Info `json:"info"`   // as the point has it
	Since  []byte     `json:"since,omitempty"`
	Ranges string     `json:"ranges"` // name of the file beside the offer
	Sum    string     `json:"sha256"` // of that file
}

// WriteRanges writes the ranges of a disk into a file and returns its hash. It is durable
// when WriteRanges returns.
func WriteRanges(path string, ranges iter.Seq2[hypervisor.Range, error]) (sum string, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	w := bufio.NewWriter(io.MultiWriter(f, h))
	for r, err := range ranges {
		if err != nil {
			return "", err
		}
		if err := binary.Write(w, binary.LittleEndian, []int64{r.Offset, r.Length}); err != nil {
			return "", err
		}
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Driver reads the disks of one offer.
type Driver struct{ path string }

// New returns the driver for the offer in a file.
func New(path string) *Driver { return &Driver{path} }

func (d *Driver) offer() (o Offer, err error) {
	info, err := os.Stat(d.path)
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%d bytes", info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(d.path)
	}
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return o, fmt.Errorf("read what a run offers in %s: %w", d.path, err)
	}
	return o, nil
}

func (d *Driver) disk(key string) (Offer, Disk, error) {
	o, err := d.offer()
	if err != nil {
		return o, Disk{}, err
	}
	for _, disk := range o.Disks {
		if disk.Key == key {
			return o, disk, nil
		}
	}
	return o, Disk{}, fmt.Errorf("disk %s: the run has none of that name", key)
}

// Inspect returns the one guest.
func (d *Driver) Inspect(ctx context.Context) ([]hypervisor.Guest, error) {
	o, err := d.offer()
	if err != nil {
		return nil, err
	}
	g := hypervisor.Guest{ID: o.Guest, Name: o.Name, Driver: Name, Source: d.path, Config: o.Config}
	for _, disk := range o.Disks {
		served, err := dial(ctx, o, disk)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", disk.Key, err)
		}
		if err := served.Close(); err != nil {
			return nil, fmt.Errorf("disk %s: %w", disk.Key, err)
		}
		g.Disks = append(g.Disks, hypervisor.Disk{ID: disk.ID, Key: disk.Key, Path: disk.Export, Info: disk.Info})
	}
	return []hypervisor.Guest{g}, nil
}

// Freeze looks whether the disks are served. Nobody can write to them.
func (d *Driver) Freeze(ctx context.Context, g hypervisor.Guest, p hypervisor.Policy) (hypervisor.Frozen, error) {
	o, err := d.offer()
	if err != nil {
		return hypervisor.Frozen{}, err
	}
	if p == hypervisor.AppRequired && o.Consistency == hypervisor.CrashConsistent {
		return hypervisor.Frozen{}, fmt.Errorf("guest %s: %w: %s", g.Name, hypervisor.ErrConsistency, o.Reason)
	}
	f := hypervisor.Frozen{Hold: &hold{d: d}, Consistency: o.Consistency, Method: Name, Reason: o.Reason}
	for _, disk := range g.Disks {
		t := hypervisor.Tracking{Kind: Kind, Reason: "a run keeps no record of changes after its end"}
		if _, known, err := d.disk(disk.Key); err == nil && string(known.Since) == string(disk.Since) {
			t.Granularity, t.Reason = granularity, ""
		}
		f.Tracking = append(f.Tracking, t)
	}
	return f, f.Changed(ctx)
}

// Resume is Freeze: nothing can have changed meanwhile.
func (d *Driver) Resume(ctx context.Context, g hypervisor.Guest, _ []byte) (hypervisor.Frozen, error) {
	return d.Freeze(ctx, g, hypervisor.CrashOnly)
}

// Changes lists what the guest has written.
func (d *Driver) Changes(_ context.Context, disk hypervisor.Disk) iter.Seq2[hypervisor.Range, error] {
	return func(yield func(hypervisor.Range, error) bool) {
		fail := func(err error) { yield(hypervisor.Range{}, fmt.Errorf("changes of disk %s: %w", disk.Key, err)) }
		_, known, err := d.disk(disk.Key)
		if err != nil {
			fail(err)
			return
		}
		f, err := os.Open(filepath.Join(filepath.Dir(d.path), filepath.Base(known.Ranges)))
		if err != nil {
			fail(err)
			return
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			fail(err)
			return
		}
		if sum := hex.EncodeToString(h.Sum(nil)); sum != known.Sum {
			fail(fmt.Errorf("%s is not what was written: its SHA-256 is %s, and %s was noted", f.Name(), sum, known.Sum))
			return
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			fail(err)
			return
		}
		r := bufio.NewReaderSize(f, 1<<16)
		for pair := make([]byte, 16); ; {
			if _, err := io.ReadFull(r, pair); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				fail(err)
				return
			}
			from, length := int64(binary.LittleEndian.Uint64(pair)), int64(binary.LittleEndian.Uint64(pair[8:]))
			if length = min(length, known.Info.VirtualSize-from); length <= 0 {
				continue // behind the end: the rest of a sector
			}
			if !yield(hypervisor.Range{Offset: from, Length: length}, nil) {
				return
			}
		}
	}
}

func dial(ctx context.Context, o Offer, disk Disk) (*nbd.Client, error) {
	c, err := nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", o.Socket)
	}, nbd.Options{Export: disk.Export, Contexts: []string{nbd.Allocation}})
	if err != nil {
		return nil, err
	}
	if size := disk.Info.VirtualSize; c.Size() < size || c.Size() >= size+granularity {
		return nil, errors.Join(fmt.Errorf("%d bytes are served of a disk of %d", c.Size(), size), c.Close())
	}
	return c, nil
}

// Open opens a disk.
func (d *Driver) Open(ctx context.Context, disk hypervisor.Disk) (hypervisor.OpenDisk, error) {
	o, known, err := d.disk(disk.Key)
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, o, known)
	if err != nil {
		return nil, fmt.Errorf("open disk %s of a run: %w", disk.Key, err)
	}
	return image{nbd.Image{Client: c}, known.Info.VirtualSize}, nil
}

// image is a disk without what its export has behind the end.
type image struct {
	nbd.Image
	size int64
}

func (m image) Size() int64 { return m.size }

// ReadAt reads as io.ReaderAt says. The server reads whole sectors only.
func (m image) ReadAt(p []byte, off int64) (int, error) {
	n, end := vdisk.Window(p, off, m.size)
	if len(n) == 0 {
		return 0, end
	}
	from := off / granularity * granularity
	to := (off + int64(len(n)) + granularity - 1) / granularity * granularity
	b := n
	if to-from != int64(len(n)) {
		b = make([]byte, to-from)
	}
	if _, err := m.Image.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if to-from != int64(len(n)) {
		copy(n, b[off-from:])
	}
	return len(n), end
}

// Extents lists what is where, up to the end of the disk.
func (m image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		if err := vdisk.CheckRange(m.size, from, to); err != nil {
			yield(vdisk.Extent{}, err)
			return
		}
		up := min((to+granularity-1)/granularity*granularity, m.Client.Size())
		for e, err := range m.Image.Extents(ctx, from/granularity*granularity, up) {
			if e.End() > to {
				e.Length = to - e.Offset
			}
			if e.Offset < from {
				e.Offset, e.Length = from, e.End()-from
			}
			if err == nil && e.Length <= 0 {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// hold is a freeze: there is nothing to hold.
type hold struct {
	d        *Driver
	released bool
}

func (h *hold) Record() []byte { return []byte("{}") }

// Changed sees that the disks are served still.
func (h *hold) Changed(ctx context.Context) error {
	if h.released {
		return hypervisor.ErrReleased
	}
	o, err := h.d.offer()
	if err != nil {
		return err
	}
	for _, disk := range o.Disks {
		c, err := dial(ctx, o, disk)
		if err != nil {
			return fmt.Errorf("disk %s: %w: it is not served any more: %w", disk.Key, hypervisor.ErrChanged, err)
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (h *hold) Release(context.Context, bool) error { h.released = true; return nil }
