// Package points makes the facts of a guest's recovery point out of what a job has found
// out about its disks.
//
// [Facts] is called once everything that the point needs is durable. What it returns says
// what was stored, disk by disk, and ends with the point itself: each disk with its
// layers, newest first, and the token with which the next job asks its hypervisor for
// changes. [SameDisk] and [Since] find a disk in a point. The package reads and writes
// nothing.
package points

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/catalog/layers"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// Disk is what a job has found out about one disk. Sizes are bytes of the disk, but for
// Stored, which are bytes of packs.
type Disk struct {
	Plan                                        events.ChangesResolved
	Zero, Unchanged, Known, Fresh, Stored, Read int64
	NewChunks, KnownChunks                      uint64
	Reread                                      uint32
}

// Facts returns the point of a guest, the disks in the guest's order, and all that is
// said before it, in order.
func Facts(w *flow.Work, job id.Job, guest uint32, taken *events.SnapshotTaken, written layers.Written, disks []Disk) ([]events.Fact, events.PointCommitted) {
	g := w.Guests[guest]
	point := events.PointCommitted{
		Point: id.NewPoint(job, g.ID), Guest: g.ID, GuestName: g.Name, Driver: g.Driver, Source: g.Source, Set: w.Set,
		Parent: g.Parent, Config: g.Config, Unprotected: g.Unprotected, Domain: w.OwnDomain,
	}
	point.Scan, point.ScanReason = scan(w, guest, disks)
	if taken != nil {
		point.Time, point.Consistency = taken.At, taken.Consistency
	}
	var out, sealed []events.Fact
	if !written.Chunks.Name.IsZero() {
		out = append(out, events.ChunksStored{
			Table: written.Chunks, Domain: w.Domain, New: written.New, NewBytes: written.NewBytes, StoredBytes: written.Stored, Known: written.Known,
		})
	}
	for i, number := range w.DisksOf(guest) {
		d, info := &disks[i], w.Disks[number].Info
		disk, mapped := pointDisk(w, number, written.Disks[i], written.Chunks)
		if mapped != nil {
			out = append(out, *mapped)
		}
		if taken != nil && i < len(taken.Disks) && taken.Disks[i].Disk == info.Disk {
			disk.TrackingKind, disk.Token = taken.Disks[i].TrackingKind, taken.Disks[i].Token
		}
		point.Disks = append(point.Disks, disk)
		point.DiskBytes += info.VirtualSize
		point.ReadBytes += d.Read
		point.NewBytes += d.Fresh
		point.StoredBytes += d.Stored
		sealed = append(sealed, events.DiskSealed{
			Guest: g.ID, Disk: info.Disk, Number: number, Size: info.VirtualSize, ZeroBytes: d.Zero, UnchangedBytes: d.Unchanged,
			KnownBytes: d.Known, NewBytes: d.Fresh, StoredBytes: d.Stored, ReadBytes: d.Read, NewChunks: d.NewChunks,
			KnownChunks: d.KnownChunks, Parcels: d.Plan.Parcels, Reread: d.Reread, Root: disk.Root,
		})
	}
	return append(out, sealed...), point
}

// pointDisk is a disk as the point names it, and the fact of its new table, if there is
// one.
func pointDisk(w *flow.Work, number uint32, layer layers.Layer, chunks events.TableRef) (events.PointDisk, *events.ExtentsMapped) {
	in := &w.Disks[number]
	info := in.Info
	disk := events.PointDisk{
		Disk: info.Disk, Key: info.Key, Format: info.Format, Variant: info.Variant, Size: info.VirtualSize, Sector: info.SectorSize,
		PhysicalSector: info.PhysicalSector, BlockSize: info.BlockSize, DiskID: info.DiskID, File: info.File, Carried: info.Carried,
	}
	if !layer.Base {
		disk.Extents, disk.Chunks = in.Parent.Extents, in.Parent.Chunks
	}
	var mapped *events.ExtentsMapped
	if !layer.Table.Name.IsZero() {
		mapped = &events.ExtentsMapped{Guest: w.Guests[in.Guest].ID, Disk: info.Disk, Table: layer.Table, Chunks: chunks, Base: layer.Base}
		disk.Extents = append([]events.TableRef{layer.Table}, disk.Extents...)
		disk.Chunks = append([]events.TableRef{chunks}, disk.Chunks...)
	}
	disk.Root = disk.Extents[0].Root
	return disk, mapped
}

// maxReasons is how many disks are named with a reason of their own.
const maxReasons = 8

// scan says how a guest's disks were read, and why so: incrementally if any was. Where
// they differ, those that were read whole are named.
func scan(w *flow.Work, guest uint32, disks []Disk) (mode, reason string) {
	mode = events.ModeFull
	var reasons, read []string
	tracked := 0
	for i, n := range w.DisksOf(guest) {
		p := &disks[i].Plan
		if !slices.Contains(reasons, p.Reason) {
			reasons = append(reasons, p.Reason)
		}
		if p.Mode == events.ModeIncremental {
			mode = events.ModeIncremental
			tracked++
		} else {
			read = append(read, fmt.Sprintf("disk %s is read whole: %s", w.Disks[n].Info.Key, p.Reason))
		}
	}
	switch {
	case len(reasons) == 0:
		return mode, w.Guests[guest].ScanReason
	case len(reasons) == 1:
		return mode, reasons[0]
	case len(read) > maxReasons:
		read = append(read[:maxReasons], fmt.Sprintf("and %d more", len(read)-maxReasons))
	}
	if tracked > 0 {
		read = append([]string{fmt.Sprintf("changes of %d of %d disks are known since point %s", tracked, len(disks), id.Short(w.Guests[guest].Parent))}, read...)
	}
	return mode, strings.Join(read, "; ")
}
