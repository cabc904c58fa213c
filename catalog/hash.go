package catalog

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"iter"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// Version is the form that Hash writes. A later program that remembers more
// counts up, and still computes the older forms for the facts that hold them.
//
// Version 2 adds what programs of version 1 did not know: pinned points, replaced
// tables, and what is retired and not deleted yet. Version 3 adds the domains of guests.
// Version 4 adds where backup sets were defined, and which guests their last runs protected.
const Version = 4

// Hash is the SHA-256 of the state's canonical form. Equal records give equal
// hashes; it covers what a wrong fold would get wrong, by id and position, in order
// of ids. It does not encode whole facts: those may grow.
func (s *State) Hash() events.Hash { return s.HashOf(Version) }

// HashOf is the hash of an older form, from 1 on: what a program of that time made
// of the same records.
func (s *State) HashOf(version uint32) events.Hash {
	w := canon{sha256.New()}
	w.text("millrace state")
	w.number(uint64(version))
	w.number(s.Next)
	w.raw(s.Vault.Vault[:])
	section(w, "keys", s.Keys, func(k [16]byte, f events.KeyAdded) { w.raw(k[:]); w.text(f.KeyKind) })
	w.sets(s)
	section(w, "points", s.Points, func(k [16]byte, p *Point) { w.raw(k[:]); w.point(p) })
	section(w, "jobs", s.Jobs, func(k [16]byte, j *Job) {
		w.raw(k[:])
		w.number(j.Position)
		outcome := ""
		if j.Finished != nil {
			outcome = j.Finished.Outcome
		}
		w.text(outcome)
		w.flag(j.Fenced)
		w.number(j.PackCount)
		w.number(uint64(j.PackBytes))
	})
	w.guests(s)
	w.packs(s)
	section(w, "runs", s.Runs, func(k [16]byte, r *Run) { w.raw(k[:]); w.raw(r.Point[:]); w.text(r.State) })
	section(w, "pins", s.Pins, func(k [16]byte, p Pin) { w.raw(k[:]); w.number(p.Position) })
	if version >= 2 {
		w.kept(s)
	}
	if version >= 3 {
		section(w, "domains", s.Domains, func(k [16]byte, d *Domain) {
			w.raw(k[:])
			w.raw(d.Keyed.Guest[:])
			for _, n := range []uint64{d.Since, d.Shredded, uint64(len(d.Objects))} {
				w.number(n)
			}
		})
	}
	if version >= 4 {
		w.protected(s)
	}
	return events.Hash(w.Sum(nil))
}

// kept writes what version 2 adds.
func (w canon) kept(s *State) {
	pinned, moved := map[id.Point]*Point{}, map[id.Point]*Point{}
	for k, p := range s.Points {
		if p.KeptSince != 0 {
			pinned[k] = p
		}
		if p.committed != nil {
			moved[k] = p
		}
	}
	section(w, "pinned points", pinned, func(k [16]byte, p *Point) { w.raw(k[:]); w.number(p.KeptSince) })
	section(w, "replaced tables", moved, func(k [16]byte, p *Point) { w.raw(k[:]); w.disks(p.Disks) })
	w.text("retired tables")
	w.number(uint64(len(s.Tables)))
	for _, k := range slices.SortedFunc(maps.Keys(s.Tables), func(a, b id.Object) int { return bytes.Compare(a[:], b[:]) }) {
		w.raw(k[:])
		w.number(s.Tables[k])
	}
	w.text("retired")
	w.number(uint64(len(s.Retired)))
	for _, k := range slices.Sorted(maps.Keys(s.Retired)) {
		r := s.Retired[k]
		for _, n := range []uint64{k, uint64(len(r.Packs)), uint64(len(r.Tables)), uint64(r.Bytes), uint64(r.After)} {
			w.number(n)
		}
	}
}

// protected writes what version 4 adds.
func (w canon) protected(s *State) {
	w.text("protected by sets")
	for _, name := range slices.Sorted(maps.Keys(s.Sets)) {
		set := s.Sets[name]
		w.text(name)
		w.raw(set.Ran[:])
		for _, n := range []uint64{set.Position, set.RanIn, uint64(len(set.Guests))} {
			w.number(n)
		}
		for _, g := range set.Guests {
			w.raw(g.Guest[:])
		}
	}
}

// canon writes values so that no two sequences of them look the same: texts
// carry their length, numbers have eight bytes, ids have their own fixed size.
type canon struct{ hash.Hash }

func (w canon) number(n uint64) { w.Write(binary.BigEndian.AppendUint64(nil, n)) }
func (w canon) raw(b []byte)    { w.Write(b) }
func (w canon) text(s string)   { w.number(uint64(len(s))); w.Write([]byte(s)) }
func (w canon) flag(b bool) {
	if b {
		w.number(1)
	} else {
		w.number(0)
	}
}

// section writes a map's name, length and entries in order of their ids.
func section[K ~[16]byte, V any](w canon, name string, m map[K]V, entry func([16]byte, V)) {
	w.text(name)
	w.number(uint64(len(m)))
	for _, k := range slices.SortedFunc(maps.Keys(m), func(a, b K) int { return bytes.Compare(a[:], b[:]) }) {
		entry(k, m[k])
	}
}

func (w canon) sets(s *State) {
	w.text("sets")
	w.number(uint64(len(s.Sets)))
	for _, name := range slices.Sorted(maps.Keys(s.Sets)) {
		w.text(name)
	}
}

func (w canon) guests(s *State) {
	section(w, "guests", s.Guests, func(k [16]byte, g *Guest) {
		w.raw(k[:])
		w.text(g.Name)
		w.number(uint64(len(g.Points)))
		// By time: that is how version 1 of the form has them.
		for _, p := range slices.SortedFunc(slices.Values(g.Points), byTime) {
			w.raw(p.Point[:])
		}
	})
}

func (w canon) point(p *Point) {
	w.raw(p.Guest[:])
	w.raw(p.Job[:])
	for _, n := range []uint64{p.Position, uint64(p.Time), p.Forgotten, p.verified, uint64(len(p.Disks))} {
		w.number(n)
	}
	w.disks(p.AsCommitted())
}

func (w canon) disks(disks []events.PointDisk) {
	for _, d := range disks {
		w.raw(d.Disk[:])
		w.number(uint64(d.Size))
		w.raw(d.Root[:])
		for _, tables := range [][]events.TableRef{d.Extents, d.Chunks} {
			w.number(uint64(len(tables)))
			for _, t := range tables {
				w.raw(t.Job[:])
				w.raw(t.Name[:])
			}
		}
	}
}

func (w canon) packs(s *State) {
	w.text("packs")
	w.number(uint64(len(s.Packs)))
	for _, k := range slices.SortedFunc(maps.Keys(s.Packs), PackKey.compare) {
		p := s.Packs[k]
		w.raw(k.Job[:])
		w.raw(k.Pack[:])
		for _, n := range []uint64{p.Position, uint64(p.Size), uint64(p.Chunks), p.Retired} {
			w.number(n)
		}
	}
	w.text("withdrawn")
	w.number(uint64(len(s.Withdrawn)))
	for _, k := range slices.SortedFunc(maps.Keys(s.Withdrawn), WithdrawnChunk.compare) {
		w.raw(k.bytes())
		w.number(s.Withdrawn[k])
	}
}

func (k PackKey) compare(other PackKey) int {
	return cmp.Or(bytes.Compare(k.Job[:], other.Job[:]), bytes.Compare(k.Pack[:], other.Pack[:]))
}

func (c WithdrawnChunk) compare(other WithdrawnChunk) int {
	return bytes.Compare(c.bytes(), other.bytes())
}

func (c WithdrawnChunk) bytes() []byte {
	return slices.Concat(c.Job[:], c.Pack[:], c.Domain[:], c.Chunk[:])
}

// Disagreement is a StateHashed fact that this fold does not confirm: the fold
// of one of the two programs is wrong.
type Disagreement struct {
	At   uint64 // position of the fact
	Said events.StateHashed
	Got  events.Hash
}

func (d Disagreement) String() string {
	return fmt.Sprintf("position %d: the state before %d was %s, folded again it is %s", d.At, d.Said.Before, d.Said.Hash, d.Got)
}

// Replay folds records from position 0 on and compares the state with every
// StateHashed of a version it knows. It runs through records twice.
func Replay(records iter.Seq2[events.Record, error]) (*State, []Disagreement, error) {
	said := map[uint64][]Disagreement{} // by the position before which the state was hashed
	for r, err := range records {
		if err != nil {
			return nil, nil, fmt.Errorf("replay: %w", err)
		}
		if f, ok := r.Fact.(events.StateHashed); ok && f.Version >= 1 && f.Version <= Version {
			said[f.Before] = append(said[f.Before], Disagreement{At: r.Position, Said: f})
		}
	}
	s := New()
	var differ []Disagreement
	compare := func() {
		for _, d := range said[s.Next] {
			if d.Got = s.HashOf(d.Said.Version); d.Got != d.Said.Hash {
				differ = append(differ, d)
			}
		}
		delete(said, s.Next)
	}
	for r, err := range records {
		if err == nil && r.Position >= s.Next {
			compare() // all before this position is folded
		}
		if err == nil {
			err = s.Apply(r)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("replay: %w", err)
		}
	}
	compare()
	for _, rest := range slices.Sorted(maps.Keys(said)) { // positions that do not exist
		differ = append(differ, said[rest]...)
	}
	return s, differ, nil
}

// CatchUp folds the records that others have appended since.
func (s *State) CatchUp(records iter.Seq2[events.Record, error]) error {
	for r, err := range records {
		if err != nil {
			return fmt.Errorf("fold the ledger: %w", err)
		}
		if err := s.Apply(r); err != nil {
			return fmt.Errorf("fold the ledger: %w", err)
		}
	}
	return nil
}

// Hashed is the fact that goes into the ledger with whatever is appended next:
// what all records so far add up to. size is the ledger's, in leaves.
func (s *State) Hashed(size uint64) events.StateHashed {
	return events.StateHashed{Version: Version, Before: s.Next, Size: size, Hash: s.Hash()}
}
