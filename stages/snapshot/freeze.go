package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
)

// record is what a successor needs to go on from the same instant. It is in the
// job's folder, one file per guest.
type record struct {
	Driver json.RawMessage `json:"driver"` // hypervisor.Hold's own
	Since  time.Time       `json:"since"`
	Seed   uint64          `json:"seed"` // decides which parcels are read twice
	Frozen struct {
		Consistency, Method, Reason string
		RecheckPercent              int
		Tracking                    []hypervisor.Tracking
		Stood                       time.Duration
	} `json:"frozen"`
}

// freeze freezes guest n, or takes up the freeze that a predecessor made.
func (s *stage) freeze(ctx context.Context, n uint32) (*hold, uint64, error) {
	h := &hold{guest: s.guest(n)}
	var err error
	if h.driver, err = s.drivers(s.w.Config.Work.Guests[n]); err != nil {
		return nil, 0, unfrozen(h.guest, err)
	}
	path := s.recordPath(n)
	r, err := readRecord(path)
	switch {
	case err == nil:
		if h.frozen, err = h.driver.Resume(ctx, h.guest, r.Driver); err != nil {
			return nil, 0, unfrozen(h.guest, err)
		}
		h.since = r.Since
		h.frozen.Consistency, h.frozen.Method, h.frozen.Reason = r.Frozen.Consistency, r.Frozen.Method, r.Frozen.Reason
		h.frozen.RecheckPercent = max(h.frozen.RecheckPercent, r.Frozen.RecheckPercent)
		h.frozen.Tracking, h.frozen.Stood = r.Frozen.Tracking, r.Frozen.Stood
		return h, r.Seed, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, 0, err
	}
	if h.frozen, err = h.driver.Freeze(ctx, h.guest, policy(s.w.Config.Work.Freeze)); err != nil {
		return nil, 0, unfrozen(h.guest, err)
	}
	h.since = time.Now().UTC()
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails: crypto/rand ends the process instead
	r = record{Driver: h.frozen.Record(), Since: h.since, Seed: binary.LittleEndian.Uint64(seed[:])}
	r.Frozen.Consistency, r.Frozen.Method, r.Frozen.Reason, r.Frozen.RecheckPercent = h.frozen.Consistency, h.frozen.Method, h.frozen.Reason, h.frozen.RecheckPercent
	r.Frozen.Tracking, r.Frozen.Stood = h.frozen.Tracking, h.frozen.Stood
	if err := writeRecord(path, r); err != nil {
		return nil, 0, errors.Join(err, h.frozen.Release(ctx, false))
	}
	return h, r.Seed, nil
}

func policy(word string) hypervisor.Policy {
	switch word {
	case "require":
		return hypervisor.AppRequired
	case "never":
		return hypervisor.CrashOnly
	}
	return hypervisor.AppPreferred
}

func unfrozen(g hypervisor.Guest, err error) error {
	f := &flow.Fault{
		Class: flow.Park, Code: "freeze-failed", Op: "freeze", Object: g.Source, Cause: err.Error(), Err: err,
		Remedy: "check that the guest's disks are there and readable by this account, then run the job again",
	}
	switch {
	case errors.Is(err, hypervisor.ErrChanged):
		return changed(g.Source, err)
	case errors.Is(err, hypervisor.ErrConsistency):
		f.Code, f.Remedy = "consistency", "shut the guest down, or allow a softer method with --freeze prefer"
	}
	return f
}

func readRecord(path string) (r record, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("read freeze record: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read freeze record %s: %w", path, err)
	}
	return r, nil
}

// writeRecord makes the record visible whole or not at all. It is not synced: a
// power cut ends the job and with it the need for the record.
func writeRecord(path string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode freeze record: %w", err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("write freeze record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write freeze record: %w", err)
	}
	return nil
}

// DiskOf translates a job's disk into the driver's words.
func DiskOf(d flow.WorkDisk) hypervisor.Disk {
	i := d.Info
	return hypervisor.Disk{ID: i.Disk, Key: i.Key, Path: i.Path, File: i.File, Carried: i.Carried, Info: vdisk.Info{
		Format: i.Format, Variant: i.Variant, VirtualSize: i.VirtualSize, LogicalSector: i.SectorSize,
		PhysicalSector: i.PhysicalSector, BlockSize: i.BlockSize, DiskID: i.DiskID,
	}}
}

// InfoOf is the way back: a disk as facts have it.
func InfoOf(d hypervisor.Disk) events.DiskInfo {
	i := d.Info
	return events.DiskInfo{
		Disk: d.ID, Key: d.Key, Path: d.Path, Format: i.Format, Variant: i.Variant, VirtualSize: i.VirtualSize,
		SectorSize: i.LogicalSector, PhysicalSector: i.PhysicalSector, BlockSize: i.BlockSize, DiskID: i.DiskID, File: d.File, Carried: d.Carried,
	}
}
