package salvage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// Loose is a disk as the footers of packs know it: chunks, and where on the disk
// they were first read.
type Loose struct {
	vault.PackDisk
	Size    int64 // where the last chunk ends; the disk may be longer
	Covered int64 // bytes that some chunk was read at, whether or not it can be read now
	Packs   int
	places  []place
}

type place struct {
	job    id.Job
	pack   id.Object
	domain id.Domain
	entry  vault.PackEntry
}

// footers reads the footer of every pack and gathers the disks that no whole point
// explains. It returns a pack of each job that the ledger knows nothing of: a job says
// that it begins before it stores anything.
func (r *Result) footers(ctx context.Context, v *vault.Vault, explained map[vault.PackDisk]bool) (strangers map[id.Job]string, err error) {
	strangers = map[id.Job]string{}
	loose := map[vault.PackDisk]*Loose{}
	for e, err := range v.Store.List(ctx, "packs/") {
		if err != nil {
			return nil, err
		}
		folder, name := path.Split(strings.TrimPrefix(e.Name, "packs/"))
		var job id.Job
		var pack id.Object
		if job.UnmarshalText([]byte(strings.TrimSuffix(folder, "/"))) != nil || pack.UnmarshalText([]byte(name)) != nil {
			continue
		}
		if !r.jobs[job] && strangers[job] == "" {
			strangers[job] = e.Name
		}
		info, err := vault.ReadPackFooter(ctx, v.Store, v.Keys, job, pack)
		if err != nil {
			if err := r.note(ctx, err); err != nil {
				return nil, err
			}
			continue
		}
		seen := map[uint16]bool{}
		for _, entry := range info.Entries {
			d := info.Disks[entry.Disk]
			if d == (vault.PackDisk{}) || explained[d] { // the zero disk is nobody's
				continue
			}
			l := loose[d]
			if l == nil {
				l = &Loose{PackDisk: d}
				loose[d] = l
			}
			if !seen[entry.Disk] {
				seen[entry.Disk] = true
				l.Packs++
			}
			l.places = append(l.places, place{job, pack, info.Domain, entry})
			for _, x := range entry.Places() {
				l.Size = max(l.Size, x.Offset+int64(x.Length))
			}
		}
	}
	for _, l := range loose {
		// Jobs are numbered by time: what a later one stored lies on top.
		slices.SortStableFunc(l.places, func(a, b place) int {
			return cmp.Or(bytes.Compare(a.job[:], b.job[:]), cmp.Compare(a.entry.GuestOffset, b.entry.GuestOffset))
		})
		l.Covered = covered(l.ranges())
		r.Loose = append(r.Loose, *l)
	}
	slices.SortFunc(r.Loose, func(a, b Loose) int {
		return cmp.Or(bytes.Compare(a.Guest[:], b.Guest[:]), bytes.Compare(a.Disk[:], b.Disk[:]))
	})
	return strangers, nil
}

func (l *Loose) ranges() (out []restore.Range) {
	for i := range l.places {
		out = append(out, l.at(i)...)
	}
	return out
}

// at is where the bytes of place i belong, in their order.
func (l *Loose) at(i int) (out []restore.Range) {
	for _, x := range l.places[i].entry.Places() {
		out = append(out, restore.Range{Disk: l.Disk, Offset: x.Offset, Length: int64(x.Length)})
	}
	return out
}

// Written is what became of a loose disk that was written.
type Written struct {
	// Covered is how many bytes have the newest content that was stored for them.
	Covered int64
	// Lost are the places, in order, whose newest content cannot be read. The image
	// has there what an earlier job stored, or zeros.
	Lost []restore.Range
	// Damage is why, one error for each chunk lost.
	Damage []error
}

// Write writes every chunk of the disk that opens where it was read, later jobs'
// over earlier ones', and says what could not be read. It stops early only because
// of ctx, of w, or of keys that are not held.
func (l *Loose) Write(ctx context.Context, v *vault.Vault, w restore.Target, tell func(done, all int)) (Written, error) {
	var out Written
	ids := map[id.Domain]*chunk.IDs{}
	var layers []layer
	for n := range l.places {
		if err := ctx.Err(); err != nil {
			return Written{}, err
		}
		p := &l.places[n]
		key, err := v.Keys.IDKey(p.domain)
		if err != nil && !errors.Is(err, vault.ErrNoDomain) {
			return Written{}, fmt.Errorf("read disk %s: %w", l.Disk, err)
		}
		if ids[p.domain] == nil {
			ids[p.domain] = chunk.NewIDs(key)
		}
		plain, damage := []byte(nil), err // a guest that was shredded, or whose keys are lost
		if err == nil {
			plain, damage = p.read(ctx, v, ids[p.domain])
		}
		if damage != nil {
			// The footer was there; whatever this is, the rest may still be had.
			out.Damage = append(out.Damage, damage)
		}
		for _, x := range l.at(n) {
			layers = append(layers, layer{x, damage != nil})
			if damage != nil {
				continue
			}
			if _, err := w.WriteAt(plain[:x.Length], x.Offset); err != nil {
				return Written{}, fmt.Errorf("write disk %s: %w", l.Disk, err)
			}
			plain = plain[x.Length:]
		}
		tell(n+1, len(l.places))
	}
	out.Covered, out.Lost = onTop(layers)
	return out, nil
}

// read returns the chunk's bytes, as many as its footer says.
func (p *place) read(ctx context.Context, v *vault.Vault, ids *chunk.IDs) ([]byte, error) {
	name := vault.PackName(p.job, p.pack)
	sealed := make([]byte, p.entry.Stored)
	if _, err := v.Store.Get(ctx, name, int64(p.entry.Offset), sealed); err != nil {
		return nil, fmt.Errorf("chunk %s of %s: %w", id.Short(p.entry.Chunk), name, err)
	}
	plain, err := v.Keys.Decode(p.domain, p.entry.Chunk, sealed, nil, ids)
	if err != nil {
		return nil, fmt.Errorf("chunk %s of %s: %w", id.Short(p.entry.Chunk), name, err)
	}
	if len(plain) != int(p.entry.Raw) {
		return nil, fmt.Errorf("chunk %s of %s has %d bytes, its footer says %d: %w", id.Short(p.entry.Chunk), name, len(plain), p.entry.Raw, vault.ErrDamaged)
	}
	return plain, nil
}

// Write restores disk n of the point to a raw file at path and returns the ranges
// that could not be read; the file has zeros there. None means that the
// image is exact: every byte was proven.
func (f Found) Write(ctx context.Context, v *vault.Vault, n int, path string, progress func(restore.Progress)) ([]restore.Range, error) {
	var lost []restore.Range
	o := restore.RawOptions{Options: restore.Options{Progress: progress, Lost: func(r restore.Range, _ error) { lost = append(lost, r) }}}
	err := restore.Raw(ctx, v, f.Disks[n], path, o)
	if errors.Is(err, vault.ErrDamaged) && len(lost) == 0 { // its map does not open
		d := f.Disks[n]
		return []restore.Range{{Disk: d.Disk, Key: d.Key, Length: d.Size}}, err
	}
	return lost, err
}

// Newest are the newest points of each guest, in order of their names.
func (r Result) Newest() []Found {
	newest := map[id.Guest]Found{}
	for _, p := range r.Points {
		newest[p.Guest] = p
	}
	return slices.SortedFunc(maps.Values(newest), func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.GuestName, b.GuestName), bytes.Compare(a.Guest[:], b.Guest[:]))
	})
}
