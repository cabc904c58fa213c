package restore

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// Range is a stretch of one disk, in bytes.
type Range struct {
	Disk           id.Disk
	Key            string // of the disk, for people
	Offset, Length int64
}

// Damage is one thing that is wrong and what it costs.
type Damage struct {
	// Object is what to look at in the store: a pack or a table.
	Object string
	// Pack is the pack, if it is one.
	Pack events.PackName
	// Chunk is the damaged chunk; zero when the object as a whole is missing or
	// cannot be understood.
	Chunk id.Chunk
	// Domain and where in the pack the point's tables have the chunk, in bytes.
	Domain          id.Domain
	At, Stored, Raw int64
	// Cause is why; errors.Is(Cause, vault.ErrDamaged) holds.
	Cause error
	// Ranges of the point's disks that need it, in order. For a pack whose footer
	// is damaged they may be readable still: a restore does not use footers.
	Ranges []Range
}

// MaxDamages is how many damages a Report lists, one per chunk, pack or table.
const MaxDamages = 10_000

// Report is what Verify found.
type Report struct {
	Point     id.Point
	Disks     int
	DiskBytes int64 // size of the disks
	DataBytes int64 // of them, what is not zeros
	Packs     int   // distinct packs the point refers to
	Chunks    int64 // distinct chunks the point refers to
	ReadCount int64 // chunks read, decoded and found right
	ReadBytes int64 // their plain bytes

	Damages     []Damage // the first MaxDamages, in order of the object's name
	DamageCount int      // all of them
}

// Err is nil if nothing is wrong, else an error that wraps vault.ErrDamaged and
// the first cause.
func (r Report) Err() error {
	if r.DamageCount == 0 {
		return nil
	}
	first := r.Damages[0]
	return fmt.Errorf("verify point %s: %d of its chunks, packs or tables are bad: first %w", r.Point, r.DamageCount, first.Cause)
}

// Facts are at most limit of the damaged ranges in the form the ledger keeps.
func (r Report) Facts(limit int) []events.Damage {
	var all []events.Damage
	for _, d := range r.Damages {
		for _, x := range d.Ranges {
			if len(all) == limit {
				return all
			}
			all = append(all, events.Damage{Disk: x.Disk, Offset: x.Offset, Length: x.Length, Chunk: d.Chunk, Pack: d.Pack, Cause: d.Cause.Error()})
		}
	}
	return all
}

// addRange notes a range of a damage, joining it to the one before.
func (d *Damage) addRange(x Range) {
	if n := len(d.Ranges); n > 0 {
		last := &d.Ranges[n-1]
		if last.Disk == x.Disk && last.Offset+last.Length == x.Offset {
			last.Length += x.Length
			return
		}
	}
	d.Ranges = append(d.Ranges, x)
}

// damages gathers what is wrong, by what it is about. It is for one goroutine.
type damages struct {
	packs  map[packKey]*Damage
	chunks map[place]*Damage
	tables []*Damage
	more   int // beyond MaxDamages
}

type packKey struct {
	job  id.Job
	pack id.Object
}

func (p place) key() packKey { return packKey{p.job, p.pack} }

func (k packKey) name() string { return vault.PackName(k.job, k.pack) }

func newDamages() *damages {
	return &damages{packs: make(map[packKey]*Damage), chunks: make(map[place]*Damage)}
}

func (ds *damages) count() int { return len(ds.packs) + len(ds.chunks) + len(ds.tables) + ds.more }

// room reports whether one more damage is listed, and counts it if not.
func (ds *damages) room() bool {
	if ds.count()-ds.more < MaxDamages {
		return true
	}
	ds.more++
	return false
}

func (ds *damages) pack(k packKey, size int64, cause error) {
	if ds.packs[k] == nil && ds.room() {
		ds.packs[k] = &Damage{Object: k.name(), Pack: events.PackName{Job: k.job, Pack: k.pack, Size: size}, Cause: cause}
	}
}

func (ds *damages) chunk(p place, cause error) {
	if ds.chunks[p] == nil && ds.room() {
		ds.chunks[p] = &Damage{Object: p.key().name(), Pack: events.PackName{Job: p.job, Pack: p.pack}, Chunk: p.chunk,
			Domain: p.domain, At: p.at, Stored: p.stored, Raw: p.raw, Cause: cause}
	}
}

// hit adds a piece's range to every damage that it needs whole.
func (ds *damages) hit(p piece, d events.PointDisk) {
	x := Range{Disk: d.Disk, Key: d.Key, Offset: p.offset, Length: p.length}
	if found := ds.packs[p.key()]; found != nil {
		found.addRange(x)
	}
	if found := ds.chunks[p.place]; found != nil {
		found.addRange(x)
	}
}

// list puts the damages into the report.
func (ds *damages) list(r *Report) {
	r.DamageCount = ds.count()
	for _, d := range ds.packs {
		r.Damages = append(r.Damages, *d)
	}
	for _, d := range ds.chunks {
		r.Damages = append(r.Damages, *d)
	}
	for _, d := range ds.tables {
		r.Damages = append(r.Damages, *d)
	}
	slices.SortFunc(r.Damages, func(a, b Damage) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), a.Chunk.Compare(b.Chunk))
	})
}
