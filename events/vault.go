package events

import "github.com/millrace-backup/millrace/id"

// VaultCreated is the first fact of every ledger.
// Written by init. Read by catalog and audit.
type VaultCreated struct {
	Vault     id.Vault     `json:"vault"`
	Version   string       `json:"version"` // program version that made the vault
	Format    uint32       `json:"format"`  // vault format, as in the object "vault"
	CellSize  int64        `json:"cell_size"`
	BlockSize int64        `json:"block_size"`
	Domains   []DomainInfo `json:"domains"`
}

// DomainInfo is a dedup domain and how it cuts, as recorded in the vault.
type DomainInfo struct {
	Domain  id.Domain `json:"domain"`
	Cutter  string    `json:"cutter"` // chunk.Params.Name
	Min     int32     `json:"min"`
	Normal  int32     `json:"normal"`
	Max     int32     `json:"max"`
	Block   int32     `json:"block"`
	ZeroRun int32     `json:"zero_run"`
}

// KeyAdded says that a further wrapped key opens the vault.
// Written by init and the key verbs. Read by catalog and audit.
type KeyAdded struct {
	Key     id.Key `json:"key"`
	KeyKind string `json:"kind"` // password or recovery
	Label   string `json:"label"`
}

// KeyAnnounced says that an object for a further key is about to be stored, which
// opens the vault from KeyAdded on. Its segment names the object as one that is
// retired, so that it is explained if its writer dies before KeyAdded.
// Written by the key verbs. Read by audit.
type KeyAnnounced struct {
	Key     id.Key `json:"key"`
	KeyKind string `json:"kind"` // password or recovery
	Label   string `json:"label"`
}

// KeyDeleted says that the object of a key that was removed, or announced and never
// added, is gone. One of that name which is there all the same was put back.
// Written by the key verbs. Read by audit.
type KeyDeleted struct {
	Key id.Key `json:"key"`
}

// KeyRemoved says that a key opens the vault no more.
// Written by the key verbs. Read by catalog and audit.
type KeyRemoved struct {
	Key id.Key `json:"key"`
	Why string `json:"why"` // asked, rotated, gone: found missing, foreign: nobody had added it, damaged
	By  string `json:"by"`
}

// KeysRotated says that from here on fresh keys seal what is written. Those that
// were there still open what they sealed.
// Written by key rotate, sealed with the keys from before. Read by audit.
type KeysRotated struct {
	Generation uint32 `json:"generation"` // how often so far
	MetaKey    uint32 `json:"meta_key"`   // Tink id of the key that seals ledger, tables and footers
	By         string `json:"by"`
}

// SetDefined says what a backup set protects from here on, and how. A later
// one under the same name takes its place.
// Written by the set verbs. Read by backup, retention, catalog and audit.
type SetDefined struct {
	Set       string            `json:"set"`
	Driver    string            `json:"driver"`
	Selectors []string          `json:"selectors"`
	Schedule  string            `json:"schedule"`
	Policy    map[string]string `json:"policy"`    // freeze policy, scan mode, codec, …
	Retention map[string]string `json:"retention"` // rule → value, e.g. daily → 14
	Removed   bool              `json:"removed"`   // the set is no more
	By        string            `json:"by"`        // OS user
	// Where guests are looked for; a guest is in the set if one of Selectors takes it,
	// or there is none, and no one of Excludes does. The same of its disks.
	Sources      []SetSource `json:"sources"`
	Excludes     []string    `json:"excludes"`
	Disks        []string    `json:"disks"`
	ExcludeDisks []string    `json:"exclude_disks"`
}

// SetSource is a place where a backup set looks for guests.
type SetSource struct {
	Source string   `json:"source"` // folder:PATH; the last element may have wildcards
	Tags   []string `json:"tags"`   // what its guests are tagged with
}

// PointForgotten says that a point is no longer wanted. It is gone from
// listings at once; its packs are found and retired later.
// Written by forget and prune. Read by catalog, retention and prune.
type PointForgotten struct {
	Point id.Point `json:"point"`
	Guest id.Guest `json:"guest"`
	Rule  string   `json:"rule"` // retention rule, or "asked"
	Why   string   `json:"why"`
	By    string   `json:"by"`
}

// PackName names a pack: packs live in a folder per job.
type PackName struct {
	Job  id.Job    `json:"job"`
	Pack id.Object `json:"pack"`
	Size int64     `json:"size"`
}

// PacksRetired says that no listed point needs these objects. They are deleted
// once every job and pinned reader that began before this fact has ended; who
// reads this before committing a point stores chunks of them again.
// Written by prune. Read by indexer (before commit), prune, catalog and audit.
type PacksRetired struct {
	Packs  []PackName `json:"packs"`
	Tables []TableRef `json:"tables"`
	Bytes  int64      `json:"bytes"`
	Why    string     `json:"why"`
	After  Micros     `json:"after"` // not deleted before; a margin for readers that cannot write
}

// ChunkWithdrawn says that a stored chunk may no longer be referenced: its
// bytes are damaged or its pack is lost. Who needs it stores it anew, and points
// that need it are read with tables that name the new copy (TableReplaced).
// Written by verify, with a PointVerified for each point that needs it. Read by
// delta (chunk index), indexer, catalog, heal and prune.
type ChunkWithdrawn struct {
	Domain id.Domain  `json:"domain"`
	Job    id.Job     `json:"job"` // folder of the pack
	Pack   id.Object  `json:"pack"`
	Chunks []id.Chunk `json:"chunks"` // none: every chunk of the pack
	Cause  string     `json:"cause"`
}

// ReaderPinned says that a long reader (Run Direct, mount, a long restore)
// needs what these points reference, so that nothing retired after it is
// deleted. A second one with Released lifts the pin.
// Written by rundirect, mount and restore. Read by prune and catalog.
type ReaderPinned struct {
	Purpose  string     `json:"purpose"` // run, mount, restore
	Points   []id.Point `json:"points"`
	Host     string     `json:"host"`
	PID      int        `json:"pid"`
	Until    Micros     `json:"until"` // the pin ends by itself then, if the reader did not come back
	Released bool       `json:"released"`
}

// PointPinned says that somebody wants a point kept: no retention rule forgets it
// until it is unpinned.
// Written by pin. Read by catalog, retention and audit.
type PointPinned struct {
	Point id.Point `json:"point"`
	Guest id.Guest `json:"guest"`
	Why   string   `json:"why"`
	By    string   `json:"by"` // OS user
}

// PointUnpinned says that a point is subject to retention rules again.
// Written by unpin. Read by catalog, retention and audit.
type PointUnpinned struct {
	Point id.Point `json:"point"`
	Guest id.Guest `json:"guest"`
	Why   string   `json:"why"`
	By    string   `json:"by"` // OS user
}

// TableReplaced says that a chunk table was written once more because chunks of
// it lie elsewhere now. Rows, their numbers and the root are the same, so every
// point that names the old table is read with the new one from here on.
// Written by prune, in the segment that brings in the packs and retires the old
// ones, and by a backup or verify that heals points (package heal), where the old
// table is not retired. Read by catalog, restore, prune, heal and audit.
type TableReplaced struct {
	Old TableRef `json:"old"`
	New TableRef `json:"new"`
	Why string   `json:"why"`
}

// ObjectsDeleted says that all objects of a PacksRetired are deleted. Without it
// nobody knows how many of them still are there; deleting them again does no harm.
// Written by prune, after the last of them. Read by prune, catalog and audit.
type ObjectsDeleted struct {
	Retired uint64 `json:"retired"` // position of the PacksRetired
	Packs   uint64 `json:"packs"`
	Tables  uint64 `json:"tables"`
	Bytes   int64  `json:"bytes"`
}

// StateHashed says what the catalog folded from all facts before a position
// looked like, so that a replay by any later version has something to agree
// with. Others may have appended between that position and this fact's own.
// Written by whoever signs a checkpoint, just before it. Read by audit replay.
type StateHashed struct {
	Version uint32 `json:"version"` // of the fold, catalog.Version
	Before  uint64 `json:"before"`  // the segments before this position were folded
	Size    uint64 `json:"size"`    // leaves of the ledger at that position
	Hash    Hash   `json:"hash"`
}

// RollbackAccepted says that somebody went on with a vault which was not the
// continuation of what had been seen of it: set back to an earlier state, or
// with another history from some place on. What was seen and what it went on from
// are both here, so that nobody has to trust a memory.
// Written by every verb that was given --accept-rollback, at the first fact it
// appends. Read by audit.
type RollbackAccepted struct {
	By       string `json:"by"` // OS user
	Host     string `json:"host"`
	SeenBy   string `json:"seen_by"`   // "state" of the host, or the path of a witness
	Forked   bool   `json:"forked"`    // another history; else an earlier state of the same
	SeenSeq  uint64 `json:"seen_seq"`  // segments that were seen
	SeenSize uint64 `json:"seen_size"` // leaves that were seen
	SeenRoot Hash   `json:"seen_root"`
	Seq      uint64 `json:"seq"` // what there was instead: the number of this fact's segment, or less
	Size     uint64 `json:"size"`
	Root     Hash   `json:"root"`
}
