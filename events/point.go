package events

import (
	"slices"

	"github.com/millrace-backup/millrace/id"
)

// TableRef names a table, tables/<job>/<name>, and what is in it.
type TableRef struct {
	Name id.Object `json:"name"`
	Job  id.Job    `json:"job"` // the folder
	UID  UID       `json:"uid"` // binds the table's pages to it
	Size int64     `json:"size"`
	Rows uint64    `json:"rows"`
	Root Hash      `json:"root"` // over the rows' content without locations
}

// PointCommitted is the commit point of a backup: from here on the guest can be
// restored to this instant. Everything it names was durable before it.
// Written by indexer, once per guest and job. Read by catalog, restore, Run
// Direct, granular restore, retention, prune, verify and the guest's next job.
type PointCommitted struct {
	Point       id.Point      `json:"point"`
	Guest       id.Guest      `json:"guest"`
	GuestName   string        `json:"guest_name"`
	Driver      string        `json:"driver"`
	Source      string        `json:"source"`
	Set         string        `json:"set"`
	Time        Micros        `json:"time"` // the instant the disks show
	Consistency string        `json:"consistency"`
	Scan        string        `json:"scan"` // full, differential, incremental
	ScanReason  string        `json:"scan_reason"`
	Parent      id.Point      `json:"parent"` // what it was compared with; the point does not need it
	Config      []byte        `json:"config"`
	Disks       []PointDisk   `json:"disks"`
	Unprotected []Unprotected `json:"unprotected"`
	DiskBytes   int64         `json:"disk_bytes"`
	ReadBytes   int64         `json:"read_bytes"`
	NewBytes    int64         `json:"new_bytes"`
	StoredBytes int64         `json:"stored_bytes"`
	Domain      id.Domain     `json:"domain"` // that its chunks are sealed in; zero: the vault's default
}

// PointDisk is one disk of a point, or a file of an exported machine's tree. Extents and Chunks are its layers, newest
// first, at most 8, paired by index.
type PointDisk struct {
	Disk           id.Disk    `json:"disk"`
	Key            string     `json:"key"`
	Format         string     `json:"format"`
	Variant        string     `json:"variant"`
	Size           int64      `json:"size"`
	Sector         int        `json:"sector"`
	PhysicalSector int        `json:"physical_sector"`
	BlockSize      int64      `json:"block_size"`
	DiskID         string     `json:"disk_id"`
	Extents        []TableRef `json:"extents"`
	Chunks         []TableRef `json:"chunks"`
	Root           Hash       `json:"root"` // of Extents[0]
	TrackingKind   string     `json:"tracking_kind"`
	Token          []byte     `json:"token"`   // what the next job asks the hypervisor with
	File           string     `json:"file"`    // its path in the exported tree, with slashes; empty: there is no tree, or it can have no such path
	Carried        bool       `json:"carried"` // no disk of the machine: that file, byte for byte
}

// MachineDisks are the disks of the point that its machine has, without the files that
// are carried along. They come first, so that their numbers do not depend on files.
func (p PointCommitted) MachineDisks() []PointDisk {
	return slices.DeleteFunc(slices.Clone(p.Disks), func(d PointDisk) bool { return d.Carried })
}

// PointVerified says what a check of a point found.
// Written by verify. Read by catalog, retention, console and audit.
type PointVerified struct {
	Point        id.Point `json:"point"`
	Guest        id.Guest `json:"guest"`
	Mode         string   `json:"mode"`    // objects, chunks, boot; withdrawn: it needs what was found bad elsewhere
	Percent      uint32   `json:"percent"` // of the chunks that mode chunks reads; 0 there: all, or it is not known
	Chunks       uint64   `json:"chunks"`
	Bytes        int64    `json:"bytes"`
	DurationNS   int64    `json:"duration_ns"`
	DamagedCount uint64   `json:"damaged_count"`
	Damaged      []Damage `json:"damaged"` // the first of them
	Cause        string   `json:"cause"`   // why the check ended early, if it did
}

// Damage is a range of a disk that cannot be read back, and where it lies.
type Damage struct {
	Disk   id.Disk  `json:"disk"`
	Offset int64    `json:"offset"`
	Length int64    `json:"length"`
	Chunk  id.Chunk `json:"chunk"`
	Pack   PackName `json:"pack"`
	Cause  string   `json:"cause"`
}

// PointRestored says that disks of a point were written out whole.
// Written by restore (through the outbox if the vault is read-only). Read by
// catalog, console and audit.
type PointRestored struct {
	Point      id.Point  `json:"point"`
	Guest      id.Guest  `json:"guest"`
	Disks      []id.Disk `json:"disks"`
	Bytes      int64     `json:"bytes"`
	To         string    `json:"to"`
	Host       string    `json:"host"`
	Verified   bool      `json:"verified"` // what was written was read back and compared
	DurationNS int64     `json:"duration_ns"`
}

// FilesRestored says that single files were taken out of a point.
// Written by granular restore. Read by catalog, console and audit.
type FilesRestored struct {
	Point      id.Point `json:"point"`
	Guest      id.Guest `json:"guest"`
	Disk       id.Disk  `json:"disk"`
	Volume     string   `json:"volume"` // partition or volume name
	FileSystem string   `json:"file_system"`
	Paths      []string `json:"paths"` // as asked for
	Files      uint64   `json:"files"`
	Errors     uint64   `json:"errors"`
	Bytes      int64    `json:"bytes"`
	To         string   `json:"to"`
	Host       string   `json:"host"`
	DurationNS int64    `json:"duration_ns"`
}

// RunStarted says that a guest boots straight from a point. Run is the id that
// the later facts of this run carry.
// Written by rundirect. Read by catalog, prune, console and audit.
type RunStarted struct {
	Run        id.Job   `json:"run"`
	Point      id.Point `json:"point"`
	Guest      id.Guest `json:"guest"`
	Name       string   `json:"name"` // under which it runs
	Host       string   `json:"host"`
	Hypervisor string   `json:"hypervisor"`
	Serving    string   `json:"serving"` // nbd, iscsi, …
	Overlay    string   `json:"overlay"` // where its writes go
	Network    string   `json:"network"` // isolated, as before, …
}

// RunKept says that the run's writes were kept beyond its end: as a point, or, if that is
// zero, in its overlay.
// Written by rundirect. Read by catalog, prune, console and audit.
type RunKept struct {
	Run          id.Job   `json:"run"`
	Overlay      string   `json:"overlay"`
	OverlayBytes int64    `json:"overlay_bytes"`
	Until        Micros   `json:"until"`
	Point        id.Point `json:"point"`
}

// RunFinalized says that the run became a guest of its own and needs the vault
// no more.
// Written by rundirect. Read by catalog, prune, console and audit.
type RunFinalized struct {
	Run        id.Job    `json:"run"`
	Point      id.Point  `json:"point"`
	Guest      id.Guest  `json:"guest"` // the new one
	Disks      []id.Disk `json:"disks"`
	Bytes      int64     `json:"bytes"`
	To         string    `json:"to"`
	DurationNS int64     `json:"duration_ns"`
}

// RunDiscarded says that the run ended and its writes were thrown away.
// Written by rundirect. Read by catalog, prune, console and audit.
type RunDiscarded struct {
	Run          id.Job `json:"run"`
	OverlayBytes int64  `json:"overlay_bytes"`
	Why          string `json:"why"`
}
