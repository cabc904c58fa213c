package flow

import (
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// Work is what a job is about. Every worker gets it whole; it holds no secrets.
// Guests and disks are numbered by their place in the lists.
type Work struct {
	Vault      string           `json:"vault"` // URL of the store
	VaultID    id.Vault         `json:"vault_id"`
	Domain     id.Domain        `json:"domain"`
	OwnDomain  id.Domain        `json:"own_domain"` // the same if it is the guest's own; zero: the vault's default
	Cutter     chunk.Params     `json:"cutter"`     // of the domain
	Codec      string           `json:"codec"`
	Limits     map[string]int64 `json:"limits,omitempty"` // bytes a second, per stage that has one: see package pace
	ParcelSize int64            `json:"parcel_size"`      // a multiple of the vault's cell size
	CellSize   int64            `json:"cell_size"`
	Freeze     string           `json:"freeze"` // require, prefer, never
	Scan       string           `json:"scan"`   // auto, full, incremental, differential
	Set        string           `json:"set,omitempty"`
	Transport  string           `json:"transport"`        // Claim or Inline
	Remote     []string         `json:"remote,omitempty"` // stages that may run on other machines
	Host       string           `json:"host"`
	Position   uint64           `json:"position"` // of the job's first fact in the ledger
	Index      []string         `json:"index"`    // chunk index files
	// Distrusted are packs that a parent's tables name and that nothing new may
	// refer to: gone, of another size, retired, or withdrawn.
	Distrusted []PackID `json:"distrusted,omitempty"`
	// Withdrawn are chunks that nothing new may refer to where they are in other packs.
	Withdrawn []Place `json:"withdrawn,omitempty"`
	Ledger    string  `json:"ledger"`             // folder of the local segment cache
	Sidecars  string  `json:"sidecars,omitempty"` // folder of the disks' block hashes; none: compare by chunk id
	// How long a vault that fails, or is away, is waited for. 0: the defaults.
	WaitIO   time.Duration `json:"wait_io,omitempty"`
	WaitGone time.Duration `json:"wait_gone,omitempty"`
	// Fleece is a folder for what guests overwrite while they are backed up; empty: the
	// job's. Granularity is that of new dirty bitmaps in bytes; 0: as the driver finds best.
	Fleece      string `json:"fleece,omitempty"`
	Granularity int64  `json:"granularity,omitempty"`
	// GuestLatency is what a guest's requests may take while it is read; beyond it reading
	// slows down. 0: whatever they take.
	GuestLatency time.Duration `json:"guest_latency,omitempty"`

	Guests []WorkGuest `json:"guests"`
	Disks  []WorkDisk  `json:"disks"`
}

// PackID names a pack: they lie in a folder per job.
type PackID struct {
	Job  id.Job    `json:"job"`
	Name id.Object `json:"name"`
}

// Place is a chunk in one pack.
type Place struct {
	Pack  PackID   `json:"pack"`
	Chunk id.Chunk `json:"chunk"`
}

// WorkGuest is one guest of the job.
type WorkGuest struct {
	ID          id.Guest             `json:"id"`
	Name        string               `json:"name"`
	Driver      string               `json:"driver"`
	Source      string               `json:"source"`
	Config      []byte               `json:"config,omitempty"`
	Unprotected []events.Unprotected `json:"unprotected,omitempty"`
	Parent      id.Point             `json:"parent"` // the point it is compared with; zero: none
	ScanReason  string               `json:"scan_reason"`
}

// WorkDisk is one disk of one guest.
type WorkDisk struct {
	Guest  uint32            `json:"guest"`
	Info   events.DiskInfo   `json:"info"`
	Parent *events.PointDisk `json:"parent,omitempty"` // the same disk in the parent point
	// Since is the tracking token of the disk in the guest's newest point, whether that is
	// compared with or not.
	Since []byte `json:"since,omitempty"`
	// Uncompared are cells in which the parent has chunks of Withdrawn, in order: that the
	// bytes there are what they were is no reason not to store them.
	Uncompared []int64 `json:"uncompared,omitempty"`
}

// Parcels is how many parcels the whole disk has.
func (w *Work) Parcels(disk int) uint32 {
	return uint32((w.Disks[disk].Info.VirtualSize + w.ParcelSize - 1) / w.ParcelSize)
}

// DistrustedPacks is Distrusted as a set.
func (w *Work) DistrustedPacks() map[PackID]bool {
	set := make(map[PackID]bool, len(w.Distrusted))
	for _, p := range w.Distrusted {
		set[p] = true
	}
	return set
}

// DisksOf lists the ordinals of a guest's disks.
func (w *Work) DisksOf(guest uint32) (out []uint32) {
	for n := range w.Disks {
		if w.Disks[n].Guest == guest {
			out = append(out, uint32(n))
		}
	}
	return out
}
