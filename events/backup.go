package events

import "github.com/millrace-backup/millrace/id"

// GuestInspected is what the hypervisor said of a guest before it was frozen.
// Written by snapshot. Read by audit, catalog and Run Direct (Config).
type GuestInspected struct {
	Guest       id.Guest      `json:"guest"`
	Name        string        `json:"name"`
	Driver      string        `json:"driver"` // folder, qemu, hyperv
	Source      string        `json:"source"` // where it was found: a path, host and cluster
	Config      []byte        `json:"config"` // the guest's definition as the driver wrote it
	Disks       []DiskInfo    `json:"disks"`
	Unprotected []Unprotected `json:"unprotected"`
}

// DiskInfo is a disk as it was found.
type DiskInfo struct {
	Disk           id.Disk `json:"disk"`
	Key            string  `json:"key"` // its stable name inside the guest
	Path           string  `json:"path"`
	Format         string  `json:"format"`  // raw, vhdx, …
	Variant        string  `json:"variant"` // fixed, dynamic, …
	VirtualSize    int64   `json:"virtual_size"`
	SectorSize     int     `json:"sector_size"`
	PhysicalSector int     `json:"physical_sector"`
	BlockSize      int64   `json:"block_size"` // allocation unit of the format
	DiskID         string  `json:"disk_id"`    // the format's own id
	File           string  `json:"file"`       // its path in the exported tree, with slashes; empty: there is no tree, or it can have no such path
	Carried        bool    `json:"carried"`    // no disk of the machine: that file, byte for byte
}

// Unprotected is a disk of the guest that a point leaves out, and why.
type Unprotected struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// SnapshotTaken says that the guest's disks are frozen at one instant, and what
// consistency was really obtained, which may be less than was wanted.
// Written by snapshot. Read by audit, catalog and a restarted snapshot stage.
type SnapshotTaken struct {
	Guest          id.Guest       `json:"guest"`
	At             Micros         `json:"at"`          // the instant
	Consistency    string         `json:"consistency"` // off, offline, crash, application, …
	Method         string         `json:"method"`      // how: lease, reflink, checkpoint, VSS, …
	Policy         string         `json:"policy"`      // what was asked for
	Reason         string         `json:"reason"`      // why it is less than asked for
	RecheckPercent int            `json:"recheck_percent"`
	Record         []byte         `json:"record"` // the driver's own, to take the same instant up again
	Disks          []SnapshotDisk `json:"disks"`
	FreezeNS       int64          `json:"freeze_ns"` // how long the guest stood still
}

// SnapshotDisk is the tracking state of a disk at the instant: what a later
// job hands to the driver to learn what has changed since.
type SnapshotDisk struct {
	Disk         id.Disk `json:"disk"`
	TrackingKind string  `json:"tracking_kind"` // rct, bitmap, …; empty: none
	Token        []byte  `json:"token"`
}

// SnapshotReleased says that the hypervisor holds nothing for this job any
// more. For sources that cannot be frozen, Verdict says whether the disk files
// stayed the same while they were read.
// Written by snapshot, after the point is committed or given up. Read by audit.
type SnapshotReleased struct {
	Guest   id.Guest `json:"guest"`
	Verdict string   `json:"verdict"` // unchanged, changed, unknown
	Detail  string   `json:"detail"`
	HeldNS  int64    `json:"held_ns"`
	// The longest that the guest's requests to its disks took meanwhile, on average of a
	// second, and how long it was read more slowly because of it.
	LatencyNS int64 `json:"latency_ns"`
	SlowedNS  int64 `json:"slowed_ns"`
}

// Modes of ChangesResolved.
const (
	ModeFull        = "full"        // all that is no hole is read
	ModeIncremental = "incremental" // what a tracker says has changed is read
)

// ChangesResolved is the plan of one disk: what is read, and from which source
// that was decided. Parcels counts what the indexer has to see before it seals
// the disk. Without Cells the parcels are the disk's cells in order. What is not read is a
// hole in a full plan, and as in the parent in an incremental one.
// Written by snapshot. Read by indexer, audit and metrics.
type ChangesResolved struct {
	Guest        id.Guest `json:"guest"`
	Disk         id.Disk  `json:"disk"`
	Number       uint32   `json:"number"` // ordinal of the disk in the job
	Mode         string   `json:"mode"`   // full, incremental, differential
	Source       string   `json:"source"` // extents, scan, rct, bitmap
	Reason       string   `json:"reason"` // why this mode and source
	Parent       id.Point `json:"parent"`
	TrackingKind string   `json:"tracking_kind"` // of the token that was used
	Token        []byte   `json:"token"`
	Parcels      uint32   `json:"parcels"`
	Cells        []byte   `json:"cells"` // one bit per parcel the disk could have, lowest bit first: set = it is read
	ReadBytes    int64    `json:"read_bytes"`
	DiskBytes    int64    `json:"disk_bytes"`
	DirtyBytes   int64    `json:"dirty_bytes"`   // incremental: what the tracker reports as changed
	Granularity  int64    `json:"granularity"`   // ... in units of so many bytes
	SampledBytes int64    `json:"sampled_bytes"` // ... of what it reports as unchanged, so much was read and compared
}

// PackStored says that a pack is durable: every chunk in it can be read back
// after a loss of power. Its segment names the pack in its clear header too.
// Written by indexer, every 8 packs or 30 s. Read by delta (chunk index), a
// resuming job, prune, catalog and audit.
type PackStored struct {
	Pack     id.Object `json:"pack"` // in the folder of the record's job
	Domain   id.Domain `json:"domain"`
	DataKey  uint32    `json:"data_key"` // Tink key id
	Size     int64     `json:"size"`
	Chunks   uint32    `json:"chunks"`
	RawBytes int64     `json:"raw_bytes"` // of its chunks, before compression
}

// ChunksStored says that a chunk table is durable: every chunk that the job's
// extents refer to, new or known before, with its place in a pack.
// Written by indexer. Read by restore, Run Direct, index rebuild and prune.
type ChunksStored struct {
	Table       TableRef  `json:"table"`
	Domain      id.Domain `json:"domain"`
	New         uint64    `json:"new"`
	Known       uint64    `json:"known"`
	NewBytes    int64     `json:"new_bytes"`
	StoredBytes int64     `json:"stored_bytes"`
}

// ExtentsMapped says that an extent table is durable: what this job found on
// one disk. A base covers the whole disk and needs no older layer.
// Written by indexer. Read by restore, Run Direct, prune and audit.
type ExtentsMapped struct {
	Guest  id.Guest `json:"guest"`
	Disk   id.Disk  `json:"disk"`
	Table  TableRef `json:"table"`
	Chunks TableRef `json:"chunks"` // the chunk table its rows number
	Base   bool     `json:"base"`
}

// DiskSealed says that every parcel of a disk has arrived and every reference
// resolves. The byte counts but StoredBytes add up to Size.
// Written by indexer. Read by audit, metrics and catalog.
type DiskSealed struct {
	Guest          id.Guest `json:"guest"`
	Disk           id.Disk  `json:"disk"`
	Number         uint32   `json:"number"`
	Size           int64    `json:"size"`
	ZeroBytes      int64    `json:"zero_bytes"`
	UnchangedBytes int64    `json:"unchanged_bytes"`
	KnownBytes     int64    `json:"known_bytes"`
	NewBytes       int64    `json:"new_bytes"`
	StoredBytes    int64    `json:"stored_bytes"`
	ReadBytes      int64    `json:"read_bytes"`
	NewChunks      uint64   `json:"new_chunks"`
	KnownChunks    uint64   `json:"known_chunks"`
	Parcels        uint32   `json:"parcels"`
	Reread         uint32   `json:"reread"` // parcels that were read again
	Root           Hash     `json:"root"`   // of the disk's newest extent table
}
