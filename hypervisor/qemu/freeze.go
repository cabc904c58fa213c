package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/hypervisor/qemu/note"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
	"github.com/millrace-backup/millrace/vdisk"
)

// record is what Hold.Record returns, as JSON.
type record struct {
	Format int          `json:"format"` // 1
	Job    string       `json:"job"`    // its tag
	Disks  []diskRecord `json:"disks"`  // in the guest's order
	Was    struct {
		Consistency, Method, Reason string
	} `json:"was"`
}

// diskRecord is a disk of the freeze.
type diskRecord struct {
	Key    string `json:"key"`
	QDev   string `json:"qdev"`
	Node   string `json:"node"`            // the guest's own
	Bitmap string `json:"bitmap"`          // that records from the instant on; empty: none
	Since  string `json:"since,omitempty"` // the one that does so since the point before
}

const (
	recordFormat  = 1
	maxRecordSize = 1 << 20
	pauseLimit    = 10 * time.Second // of the guest, before it goes on whatever has become of the freeze
)

// view is a disk while its instant is made.
type view struct {
	diskRecord
	n           int
	size        int64
	granularity int64 // of the new bitmap
	persistent  bool
	since       *machine.Bitmap // the bitmap whose bits are the changes
	why         string          // there is no such bitmap
}

// name is that of something we make for the disk: at most 31 characters, as QEMU wants
// them.
func (v *view) name(tag, kind string) string {
	return fmt.Sprintf("%s%s-%d-%s", machine.Ours, tag, v.n, kind)
}

// tag is what the names of a job's things have in them: of a job's id, which begins with
// the time, the end.
func (d *Driver) tag() string {
	s := d.o.Job.String()
	return s[len(s)-8:]
}

// bitmaps begins the names of the bitmaps of all points in the driver's vault.
func (d *Driver) bitmaps() string { return machine.Ours + d.o.Vault.String()[:8] + "-" }

// changed is the name of the bitmap, on every disk's node, that says what has changed
// since the point before.
func (d *Driver) changed() string { return machine.Ours + d.tag() + machine.ChangesKind }

// Freeze makes an instant of all disks of g, and names what is to record changes from
// there on.
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

func (d *Driver) freeze(ctx context.Context, g hypervisor.Guest, p hypervisor.Policy) (f hypervisor.Frozen, err error) {
	m, err := d.connect(ctx)
	if err != nil {
		return f, err
	}
	h := &hold{d: d, tag: d.tag()}
	defer func() {
		_ = m.Close() // others may want to talk with QEMU too
		if err != nil {
			err = errors.Join(err, h.undo(context.WithoutCancel(ctx)))
		}
	}()
	if h.guard, err = d.startGuard(); err != nil {
		return f, fmt.Errorf("start the guard: %w", err)
	}
	if err := d.sweep(ctx, m); err != nil {
		return f, fmt.Errorf("remove what an earlier job has left: %w", err)
	}
	if h.views, err = d.views(ctx, m, g); err != nil {
		return f, err
	}
	for _, v := range h.views {
		if err := h.prepare(ctx, m, v); err != nil {
			return f, fmt.Errorf("disk %s: %w", v.Key, err)
		}
	}
	d.flushAhead(g)
	f, err = h.still(ctx, m, p)
	if err != nil {
		return f, err
	}
	if err := h.publish(ctx, m); err != nil {
		return f, err
	}
	if _, _, err := h.served(ctx, m); err != nil { // how it fares is told of the time from here on
		return f, err
	}
	r := record{Format: recordFormat, Job: h.tag}
	for _, v := range h.views {
		r.Disks = append(r.Disks, v.diskRecord)
		f.Tracking = append(f.Tracking, v.tracking())
	}
	r.Was.Consistency, r.Was.Method, r.Was.Reason = f.Consistency, f.Method, f.Reason
	h.record, err = json.Marshal(r)
	f.Hold = h
	return f, err
}

// views are the guest's disks as they are now: those that were inspected.
func (d *Driver) views(ctx context.Context, m *machine.Monitor, g hypervisor.Guest) (out []*view, err error) {
	found, err := m.Disks(ctx)
	if err != nil {
		return nil, err
	}
	for n, disk := range g.Disks {
		var is *machine.Device
		for i := range found {
			if found[i].Key == disk.Key && found[i].Unprotected == "" {
				is = &found[i]
			}
		}
		switch {
		case is == nil:
			return nil, fmt.Errorf("disk %s: %w: the guest has it no more", disk.Key, hypervisor.ErrChanged)
		case is.Info.VirtualSize != disk.Info.VirtualSize:
			return nil, fmt.Errorf("disk %s: %w: it had %d bytes, it has %d", disk.Key, hypervisor.ErrChanged, disk.Info.VirtualSize, is.Info.VirtualSize)
		}
		v := &view{n: n, size: is.Info.VirtualSize, granularity: d.granularity(is.Info.VirtualSize), persistent: is.Driver == "qcow2"}
		v.diskRecord = diskRecord{Key: disk.Key, QDev: is.QDev, Node: is.Node, Bitmap: d.bitmaps() + d.tag()}
		v.since, v.why = trusted(is, disk.Since)
		if v.since != nil {
			v.Since = v.since.Name
		}
		for _, b := range is.Bitmaps {
			if b.Name == string(disk.Since) {
				v.Since = b.Name // it stays until there is a newer point, usable or not
			}
			if machine.Own(b.Name, d.bitmaps()) && b.Name != string(disk.Since) && !b.Busy {
				// Of a job that failed, or of a point that is gone: nobody asks for it again.
				if err := m.Do(ctx, "block-dirty-bitmap-remove", machine.Args{"node": is.Node, "name": b.Name}, nil); err != nil {
					return nil, fmt.Errorf("disk %s: an old bitmap: %w", disk.Key, err)
				}
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// trusted is the bitmap that has recorded since the point of a token, or why none has.
func trusted(is *machine.Device, since []byte) (*machine.Bitmap, string) {
	if len(since) == 0 {
		return nil, "there is no earlier point with a bitmap of this disk"
	}
	for i := range is.Bitmaps {
		b := &is.Bitmaps[i]
		if b.Name != string(since) {
			continue
		}
		switch {
		case b.Inconsistent:
			return nil, "QEMU has ended without saving the bitmap of that point"
		case !b.Recording:
			return nil, "the bitmap of that point does not record: somebody has disabled it"
		case b.Busy:
			return nil, "the bitmap of that point is in use by another program"
		case is.Info.Snapshots > 0:
			return nil, "the image has snapshots inside, and going back to one is not seen by a bitmap"
		}
		return b, ""
	}
	return nil, "the bitmap of that point is gone: the guest was started anew from an image that keeps none, or after its QEMU was killed, the disk has a new image on top, or somebody has removed it"
}

// tracking is what is said of the disk's changes.
func (v *view) tracking() hypervisor.Tracking {
	t := hypervisor.Tracking{Reason: v.why}
	if v.Bitmap != "" {
		t.Kind, t.Token = "bitmap", []byte(v.Bitmap)
	}
	if v.since != nil {
		t.Granularity = v.since.Granularity
	}
	return t
}

// granularity is that of a new bitmap.
func (d *Driver) granularity(size int64) int64 {
	if d.o.Granularity > 0 {
		return d.o.Granularity
	}
	g := int64(4 << 10)
	for size/g > 16<<20*8 && g < 1<<20 {
		g *= 2
	}
	return g
}

// flushAhead writes out what the system still has of the disks, so that QEMU, which does
// it when the guest is paused, has little left to do. It is worth no error.
func (d *Driver) flushAhead(g hypervisor.Guest) {
	for _, disk := range g.Disks {
		f, err := os.Open(disk.Path)
		if err != nil {
			continue
		}
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			_ = f.Sync()
		}
		_ = f.Close()
	}
}

// prepare makes the fleecing file of a disk and the filter that fills it. Nothing of
// the guest goes through it yet.
func (h *hold) prepare(ctx context.Context, m *machine.Monitor, v *view) error {
	f, driver, err := host.Fleece(h.d.o.Fleece, v.size)
	if err != nil {
		return fmt.Errorf("make a fleecing file in %s: %w", h.d.o.Fleece, err)
	}
	defer f.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.Send(ctx, f, "add-fd", machine.Args{"opaque": machine.Ours + h.tag}, &set); err != nil {
		return err
	}
	fleece := machine.Args{"driver": driver, "node-name": v.name(h.tag, "fleece"), "file": machine.Args{
		"driver": "file", "filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "locking": "off", "discard": "unmap"}}
	if err := m.Do(ctx, "blockdev-add", fleece, nil); err != nil {
		return err
	}
	return m.Do(ctx, "blockdev-add", machine.Args{
		"driver": "copy-before-write", "node-name": v.name(h.tag, "cbw"), "file": v.Node, "target": v.name(h.tag, "fleece"),
		"on-cbw-error": "break-snapshot", "cbw-timeout": 30,
	}, nil)
}

// publish makes the views readable for other processes.
func (h *hold) publish(ctx context.Context, m *machine.Monitor) error {
	l, err := host.Listen(h.d.socket())
	if err != nil {
		return fmt.Errorf("make the socket to read disks through: %w", err)
	}
	defer l.Close()
	if err := m.Send(ctx, l, "getfd", machine.Args{"fdname": machine.Ours + h.tag}, nil); err != nil {
		return err
	}
	// A crash between the note and the first export leaves a server without exports, of
	// which the note says that it is ours.
	if err := h.d.note(func(n *note.Note) { n.Server = true }); err != nil {
		return err
	}
	start := machine.Args{"addr": machine.Args{"type": "fd", "data": machine.Args{"str": machine.Ours + h.tag}}}
	if err := m.Do(ctx, "nbd-server-start", start, nil); err != nil {
		var refused *qmp.Error
		if !errors.As(err, &refused) {
			return err // it may run all the same, and the note says that it is ours
		}
		return errors.Join(fmt.Errorf("%w: another program serves disks of this QEMU over NBD, and there can be one such server; end it (nbd-server-stop), or wait", err),
			h.d.note(func(n *note.Note) { n.Server = false }))
	}
	for _, v := range h.views {
		snap := machine.Args{"driver": "snapshot-access", "node-name": v.name(h.tag, "snap"), "file": v.name(h.tag, "cbw")}
		if err := m.Do(ctx, "blockdev-add", snap, nil); err != nil {
			return fmt.Errorf("disk %s: %w", v.Key, err)
		}
		export := machine.Args{"type": "nbd", "id": v.name(h.tag, "export"), "node-name": v.name(h.tag, "snap"), "name": h.d.export(v.Key)}
		if v.since != nil {
			export["bitmaps"] = []any{machine.Args{"node": v.Node, "name": h.d.changed()}}
		}
		if err := m.Do(ctx, "block-export-add", export, nil); err != nil {
			return fmt.Errorf("disk %s: %w", v.Key, err)
		}
	}
	return nil
}

// socket is the path of the socket that disks are read through.
func (d *Driver) socket() string { return filepath.Join(d.o.Folder, "qemu-"+d.tag()+".nbd") }

// export is the name under which a disk is read.
func (d *Driver) export(key string) string { return machine.Ours + d.tag() + "-" + key }

// Resume takes up a freeze: QEMU has kept it.
func (d *Driver) Resume(ctx context.Context, g hypervisor.Guest, rec []byte) (hypervisor.Frozen, error) {
	f, err := d.resume(ctx, g, rec)
	if err != nil {
		return hypervisor.Frozen{}, fmt.Errorf("resume the freeze of %s: %w", g.Name, err)
	}
	return f, nil
}

func (d *Driver) resume(ctx context.Context, g hypervisor.Guest, rec []byte) (f hypervisor.Frozen, err error) {
	h, r, err := d.recall(g, rec)
	if err != nil {
		return f, err
	}
	f = hypervisor.Frozen{Hold: h, Consistency: r.Was.Consistency, Method: r.Was.Method, Reason: r.Was.Reason}
	if err := h.Changed(ctx); err != nil { // a QEMU that is gone has taken the instant with it
		return f, err
	}
	h.guard, err = d.startGuard()
	return f, err
}

// recall is the hold that made a record, whether it is still in force or not.
func (d *Driver) recall(g hypervisor.Guest, rec []byte) (*hold, *record, error) {
	r := &record{}
	if len(rec) > maxRecordSize {
		return nil, nil, fmt.Errorf("record of %d bytes", len(rec))
	}
	if err := json.Unmarshal(rec, r); err != nil {
		return nil, nil, fmt.Errorf("read record: %w", err)
	}
	if r.Format != recordFormat || len(r.Disks) != len(g.Disks) || r.Job != d.tag() {
		return nil, nil, fmt.Errorf("record of format %d, job %s, with %d disks: the guest has %d, the job is %s", r.Format, r.Job, len(r.Disks), len(g.Disks), d.tag())
	}
	h := &hold{d: d, tag: d.tag(), record: append([]byte(nil), rec...)}
	for n, disk := range r.Disks {
		if disk.Key != g.Disks[n].Key {
			return nil, nil, fmt.Errorf("record has disk %s, the guest %s", disk.Key, g.Disks[n].Key)
		}
		h.views = append(h.views, &view{diskRecord: disk, n: n, size: g.Disks[n].Info.VirtualSize})
	}
	return h, r, nil
}

// ReleaseRecord takes out of QEMU what a freeze has left there whose holder died, perhaps
// while it did so.
func (d *Driver) ReleaseRecord(ctx context.Context, g hypervisor.Guest, rec []byte, kept bool) error {
	h, _, err := d.recall(g, rec)
	if err == nil {
		err = h.Release(ctx, kept)
	}
	if err != nil {
		return fmt.Errorf("release the freeze of %s: %w", g.Name, err)
	}
	return nil
}

// Open opens a disk of a guest that is frozen in the name of the driver's job.
func (d *Driver) Open(ctx context.Context, disk hypervisor.Disk) (hypervisor.OpenDisk, error) {
	im, err := d.open(ctx, disk, nbd.Allocation)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", disk.Key, err)
	}
	return im, nil
}

var _ vdisk.Image = (*image)(nil)
