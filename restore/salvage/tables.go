package salvage

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// successors are the chunk tables that took the place of others, by the name of the
// older one: from the facts of the ledger that can be read, and from snapshots.
type successors struct {
	told  map[id.Object]events.TableRef // by facts, one step each
	saved map[id.Object]events.TableRef // by the newest snapshot that knows one
}

func newSuccessors() successors {
	return successors{map[id.Object]events.TableRef{}, map[id.Object]events.TableRef{}}
}

// point takes what a snapshot has of a point. Snapshots come newest first, so the
// first that knows of a table has its newest place.
func (s successors) point(p *catalog.Point) {
	was := p.AsCommitted()
	if len(was) != len(p.Disks) {
		return
	}
	for n := range was {
		if len(was[n].Chunks) != len(p.Disks[n].Chunks) {
			continue
		}
		for i, old := range was[n].Chunks {
			if _, ok := s.saved[old.Name]; !ok && !old.Name.IsZero() && old.Name != p.Disks[n].Chunks[i].Name {
				s.saved[old.Name] = p.Disks[n].Chunks[i]
			}
		}
	}
}

// newest is the last table that is known to have taken the place of t, or t.
func (s successors) newest(t events.TableRef) events.TableRef {
	seen := map[id.Object]bool{}
	for !t.Name.IsZero() && !seen[t.Name] {
		seen[t.Name] = true
		next, ok := s.saved[t.Name]
		if !ok {
			next, ok = s.told[t.Name]
		}
		if !ok || next.Name.IsZero() {
			break
		}
		t = next
	}
	return t
}

// disks are those disks with the newest tables, and whether that is anything else.
func (s successors) disks(all []events.PointDisk) (out []events.PointDisk, changed bool) {
	out = slices.Clone(all) // those of the record are not ours
	for n := range out {
		out[n].Chunks = slices.Clone(out[n].Chunks)
		for i, t := range out[n].Chunks {
			if out[n].Chunks[i] = s.newest(t); out[n].Chunks[i].Name != t.Name {
				changed = true
			}
		}
	}
	return out, changed
}

// look finds out what a point misses. It is read with the newest tables that are known
// of it; with those it was found with only if less is missing then: where histories
// differ, not every table that is told of has to be there.
func (f *Found) look(ctx context.Context, v *vault.Vault, s successors) error {
	verify := func() error {
		report, err := restore.Verify(ctx, v, f.PointCommitted, restore.Options{})
		f.Damage = report.Damages
		if errors.Is(err, vault.ErrDamaged) {
			return nil
		}
		return err
	}
	disks, changed := s.disks(f.Disks)
	if !changed {
		return verify()
	}
	old := *f
	f.Disks = disks
	if err := verify(); err != nil || f.readable() == f.size() {
		return err
	}
	fresh := *f
	*f = old
	if err := verify(); err != nil {
		return err
	}
	if f.readable() <= fresh.readable() {
		*f = fresh
	}
	return nil
}

func (f *Found) readable() (n int64) {
	for i := range f.Disks {
		n += f.Readable(i)
	}
	return n
}

func (f *Found) size() (n int64) {
	for _, d := range f.Disks {
		n += d.Size
	}
	return n
}
