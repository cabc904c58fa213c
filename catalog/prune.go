package catalog

import (
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

func (s *State) applyPrune(r events.Record) {
	switch f := r.Fact.(type) {
	case events.PacksRetired:
		for _, p := range f.Packs {
			if known := s.Packs[PackKey{p.Job, p.Pack}]; known != nil {
				known.Retired = r.Position
			}
		}
		for _, t := range f.Tables {
			s.Tables[t.Name] = r.Position
		}
		gone := s.Retired[r.Position]
		if gone == nil {
			gone = &Retirement{Position: r.Position}
			s.Retired[r.Position] = gone
		}
		gone.Packs, gone.Tables = append(gone.Packs, f.Packs...), append(gone.Tables, f.Tables...)
		gone.Bytes += f.Bytes
		gone.After = max(gone.After, f.After)
	case events.ObjectsDeleted:
		delete(s.Retired, f.Retired)
	case events.TableReplaced:
		for _, p := range s.Points {
			p.replace(f)
		}
	}
}

// replace has the point's disks name the new table wherever they name the old one.
func (p *Point) replace(f events.TableReplaced) {
	names := func(t events.TableRef) bool { return t.Name == f.Old.Name }
	if !slices.ContainsFunc(p.Disks, func(d events.PointDisk) bool { return slices.ContainsFunc(d.Chunks, names) }) {
		return
	}
	if p.committed == nil {
		p.committed = p.Disks
	}
	p.Disks = slices.Clone(p.Disks) // those of the record are not ours
	for n := range p.Disks {
		d := &p.Disks[n]
		if at := slices.IndexFunc(d.Chunks, names); at >= 0 {
			d.Chunks = slices.Clone(d.Chunks)
			d.Chunks[at] = f.New
		}
	}
}

// AsCommitted are the disks before any table of theirs was replaced.
func (p *Point) AsCommitted() []events.PointDisk {
	if p.committed != nil {
		return p.committed
	}
	return p.Disks
}

// Names lists the tables that a point names, each once.
func (p *Point) Names() []events.TableRef {
	var out []events.TableRef
	seen := map[id.Object]bool{}
	for _, d := range p.Disks {
		for _, refs := range [][]events.TableRef{d.Extents, d.Chunks} {
			for _, t := range refs {
				if !t.Name.IsZero() && !seen[t.Name] {
					seen[t.Name] = true
					out = append(out, t)
				}
			}
		}
	}
	return out
}
