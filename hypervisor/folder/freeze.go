package folder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/hypervisor/folder/images"
)

// record is what Hold.Record returns, as JSON.
type record struct {
	Format int          `json:"format"` // 1
	Disks  []diskRecord `json:"disks"`  // in the guest's order
}

// diskRecord is a disk at the instant of the freeze.
type diskRecord struct {
	Key    string `json:"key"`
	Stamp  stamp  `json:"stamp"`
	Leased bool   `json:"leased"` // nobody had it open for writing
	// The files that it is laid on, its own parent first.
	Parents []parentRecord `json:"parents,omitempty"`
}

// parentRecord is a file that a disk is laid on, at that instant.
type parentRecord struct {
	Path   string `json:"path"`
	Stamp  stamp  `json:"stamp"`
	Leased bool   `json:"leased"`
}

const (
	recordFormat  = 1
	maxRecordSize = 16 << 20
)

// stamp is what the system says of a file without reading it. What a system
// does not know is zero.
type stamp struct {
	Device uint64 `json:"device"` // the file system's, or of a block device its own
	Inode  uint64 `json:"inode"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime_ns"` // since 1970
	CTime  int64  `json:"ctime_ns"`
}

// differs names the first thing in which b is not a, or is "".
func (a stamp) differs(b stamp) string {
	switch {
	case a.Device != b.Device || a.Inode != b.Inode:
		return "it is another file"
	case a.Size != b.Size:
		return fmt.Sprintf("size was %d, is %d", a.Size, b.Size)
	case a.MTime != b.MTime:
		return fmt.Sprintf("mtime was %d ns, is %d ns", a.MTime, b.MTime)
	case a.CTime != b.CTime:
		return fmt.Sprintf("ctime was %d ns, is %d ns", a.CTime, b.CTime)
	}
	return ""
}

// Freeze looks for proof that nobody writes to the guest's disks. Consistency
// is Offline when all of them are leased, else CrashConsistent.
func (d *Driver) Freeze(ctx context.Context, g hypervisor.Guest, p hypervisor.Policy) (hypervisor.Frozen, error) {
	if err := p.Check(); err != nil {
		return hypervisor.Frozen{}, fmt.Errorf("freeze %s: %w", g.Name, err)
	}
	f, err := d.freeze(ctx, g, p)
	if err != nil {
		return hypervisor.Frozen{}, fmt.Errorf("freeze %s: %w", g.Name, err)
	}
	return f, nil
}

func (d *Driver) freeze(ctx context.Context, g hypervisor.Guest, p hypervisor.Policy) (hypervisor.Frozen, error) {
	h, err := d.hold(ctx, g)
	if err != nil {
		return hypervisor.Frozen{}, err
	}
	fail := func(err error) (hypervisor.Frozen, error) {
		return hypervisor.Frozen{}, errors.Join(err, h.Release(ctx, false))
	}
	for _, file := range h.files {
		if err := file.settle(ctx); err != nil {
			return fail(fmt.Errorf("%v: %w", file, err))
		}
	}
	r := record{Format: recordFormat}
	for n, disk := range g.Disks {
		if err := d.sameAs(disk, h.parents(n)); err != nil {
			return fail(fmt.Errorf("%s: %w", nameOf(disk), err))
		}
	}
	if err := sameTree(ctx, g); err != nil {
		return fail(err)
	}
	for _, file := range h.files {
		if !file.parent {
			r.Disks = append(r.Disks, diskRecord{Key: file.key, Stamp: file.was, Leased: file.leased})
			continue
		}
		last := &r.Disks[len(r.Disks)-1]
		last.Parents = append(last.Parents, parentRecord{Path: file.path, Stamp: file.was, Leased: file.leased})
	}
	// The instant is now: every disk is as it was recorded.
	if err := h.Changed(ctx); err != nil {
		return fail(err)
	}
	f := h.describe(g, false)
	if p == hypervisor.AppRequired && f.Consistency != hypervisor.Offline {
		return fail(fmt.Errorf("%w: %s", hypervisor.ErrConsistency, f.Reason))
	}
	h.record, err = json.Marshal(r)
	if err != nil {
		return fail(err)
	}
	return f, nil
}

// sameAs returns an error when the disk is not what was inspected, its format, size
// or identity, or is laid on other files than those that are held. A link is an id
// of content, and stands for less than the stamps.
func (d *Driver) sameAs(was hypervisor.Disk, held []*heldFile) error {
	image, err := images.Open(was.Path, was.Info.Format, images.Folders(d.path))
	if err != nil {
		return err
	}
	defer image.Close()
	is := image.Info()
	was.Info.Link, is.Link = "", ""
	was.Info.Snapshots, is.Snapshots = 0, 0
	if is != was.Info {
		return fmt.Errorf("%w: inspected as %+v, is %+v", hypervisor.ErrChanged, was.Info, is)
	}
	below := images.Parents(image)
	if !slices.EqualFunc(below, held, func(path string, f *heldFile) bool { return path == f.path }) {
		return fmt.Errorf("%w: its parents are others than a moment ago, %s", hypervisor.ErrChanged, strings.Join(below, ", "))
	}
	return nil
}

// sameTree makes sure that a tree that is kept has the files and says the same of its
// machine as when the guest was inspected: those that are held cannot change unseen any
// more, but others may have come since.
func sameTree(ctx context.Context, g hypervisor.Guest) error {
	if !slices.ContainsFunc(g.Disks, func(d hypervisor.Disk) bool { return d.Carried }) {
		return nil
	}
	tree, err := export.Read(ctx, g.Source)
	if err != nil {
		return err
	}
	now := hypervisor.Guest{ID: g.ID}
	if err := tree.Describe(&now); err != nil {
		return err
	}
	files := func(g hypervisor.Guest) map[string]bool {
		out := map[string]bool{}
		for _, d := range g.Disks {
			if d.Carried {
				out[d.File] = true
			}
		}
		return out
	}
	before, after := files(g), files(now)
	for file := range after {
		if !before[file] {
			return fmt.Errorf("%w: %s has come to the exported tree", hypervisor.ErrChanged, file)
		}
	}
	if len(after) < len(before) {
		return fmt.Errorf("%w: the exported tree has %d files to keep, it had %d", hypervisor.ErrChanged, len(after), len(before))
	}
	if !bytes.Equal(g.Config, now.Config) {
		return fmt.Errorf("%w: the exported tree's configurations say something else than a moment ago", hypervisor.ErrChanged)
	}
	return nil
}

// Resume holds the disks again and compares them with the record. A lease that
// was interrupted proves nothing about the time between, so the recheck is
// what the file's stamps alone are good for.
func (d *Driver) Resume(ctx context.Context, g hypervisor.Guest, rec []byte) (hypervisor.Frozen, error) {
	f, err := d.resume(ctx, g, rec)
	if err != nil {
		return hypervisor.Frozen{}, fmt.Errorf("resume the freeze of %s: %w", g.Name, err)
	}
	return f, nil
}

func (d *Driver) resume(ctx context.Context, g hypervisor.Guest, rec []byte) (hypervisor.Frozen, error) {
	var r record
	if len(rec) > maxRecordSize {
		return hypervisor.Frozen{}, fmt.Errorf("record of %d bytes", len(rec))
	}
	if err := json.Unmarshal(rec, &r); err != nil {
		return hypervisor.Frozen{}, fmt.Errorf("read record: %w", err)
	}
	if r.Format != recordFormat || len(r.Disks) != len(g.Disks) {
		return hypervisor.Frozen{}, fmt.Errorf("record of format %d with %d disks, the guest has %d", r.Format, len(r.Disks), len(g.Disks))
	}
	for i, disk := range r.Disks {
		if disk.Key != g.Disks[i].Key {
			return hypervisor.Frozen{}, fmt.Errorf("record has disk %s, the guest %s", disk.Key, g.Disks[i].Key)
		}
	}
	h, err := d.hold(ctx, g)
	if errors.Is(err, os.ErrNotExist) {
		return hypervisor.Frozen{}, errors.Join(hypervisor.ErrChanged, err)
	} else if err != nil {
		return hypervisor.Frozen{}, err
	}
	if err := h.recall(r); err != nil {
		return hypervisor.Frozen{}, errors.Join(err, h.Release(ctx, false))
	}
	h.record = append([]byte(nil), rec...)
	if err := h.Changed(ctx); err != nil {
		return hypervisor.Frozen{}, errors.Join(err, h.Release(ctx, false))
	}
	f := h.describe(g, true)
	f.Consistency = hypervisor.Offline
	for _, disk := range r.Disks {
		free := disk.Leased
		for _, parent := range disk.Parents {
			free = free && parent.Leased
		}
		if !free {
			f.Consistency = hypervisor.CrashConsistent
		}
	}
	return f, nil
}

// recall gives every file the stamp that the record has of it.
func (h *heldGuest) recall(r record) error {
	for n, disk := range r.Disks {
		parents := h.parents(n)
		if !slices.EqualFunc(parents, disk.Parents, func(f *heldFile, p parentRecord) bool { return f.path == p.Path }) {
			return fmt.Errorf("disk %s: %w: it is laid on other files than when it was frozen", disk.Key, hypervisor.ErrChanged)
		}
		for i, file := range parents {
			file.was = disk.Parents[i].Stamp
		}
	}
	for _, file := range h.files {
		if !file.parent {
			file.was = r.Disks[file.disk].Stamp
		}
	}
	return nil
}

// describe says what was obtained for a guest.
func (h *heldGuest) describe(g hypervisor.Guest, interrupted bool) hypervisor.Frozen {
	f := hypervisor.Frozen{Hold: h, Consistency: hypervisor.Offline, Method: "folder", RecheckPercent: 1}
	for _, file := range h.files {
		if !file.leased {
			f.Consistency = hypervisor.CrashConsistent
			if f.Reason == "" {
				f.Reason = fmt.Sprintf("%v: %s", file, file.unleased)
			}
		}
		if (!file.leased || interrupted) && !stampsEveryWrite(file.f) {
			f.RecheckPercent = 100
		}
	}
	return f
}
