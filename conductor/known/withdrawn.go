package known

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/vault"
)

// maxListed is how many chunks a job may be told to distrust for one guest. Of packs
// with more it distrusts all.
const maxListed = 2000

// maxRanges bounds the damaged ranges of a disk that are planned for one by one.
const maxRanges = 20_000

// Listed are the places that a parent's tables list and nothing new may refer to, in
// packs that are not distrusted; those with too many become so.
func (x Index) Listed(ctx context.Context, v *vault.Vault, tables []events.TableRef, distrusted map[flow.PackID]bool) (out []flow.Place, err error) {
	listed, err := heal.Listed(ctx, v, tables, x.bad)
	for k, chunks := range listed {
		p := flow.PackID{Job: k.Job, Name: k.Pack}
		switch {
		case distrusted[p]:
		case len(out)+len(chunks) > maxListed:
			distrusted[p] = true
		default:
			for _, c := range chunks {
				out = append(out, flow.Place{Pack: p, Chunk: c})
			}
		}
	}
	return out, err
}

// Cells are, for each of these disks of a parent, the cells of so many bytes in which
// it refers to one of the places, in order.
func Cells(ctx context.Context, v *vault.Vault, disks []*events.PointDisk, places []flow.Place) ([][]int64, error) {
	bad := catalog.Bad{}
	for _, p := range places {
		bad.Add(catalog.PackKey{Job: p.Pack.Job, Pack: p.Pack.Name}, p.Chunk)
	}
	out := make([][]int64, len(disks))
	for n, d := range disks {
		if d == nil {
			continue
		}
		_, ranges, err := heal.Touched(ctx, v, events.PointCommitted{Disks: []events.PointDisk{*d}}, bad, maxRanges)
		if err == nil && len(ranges) == maxRanges {
			err = fmt.Errorf("disk %s has more than %d damaged ranges", d.Key, maxRanges)
		}
		if err != nil {
			return nil, err
		}
		cell := v.Config.CellSize
		for _, r := range ranges {
			for at := r.Offset / cell; at*cell < r.Offset+r.Length; at++ {
				out[n] = append(out[n], at)
			}
		}
		slices.Sort(out[n])
		out[n] = slices.Compact(out[n])
	}
	return out, nil
}

// Heal has points that were found damaged read what has been stored again since, by
// whichever job. Of w it fills in where chunks are: folder is that of the host's chunk
// index, which it brings up to date; s is folded on. Where no listed point is marked as
// damaged it reads nothing.
func Heal(ctx context.Context, w heal.Work, s *catalog.State, folder string) (done heal.Replaced, err error) {
	for range 3 { // others may be faster
		if done, err = tryHeal(ctx, w, s, folder); !errors.Is(err, heal.ErrStale) {
			break
		}
	}
	return done, err
}

func tryHeal(ctx context.Context, w heal.Work, s *catalog.State, folder string) (none heal.Replaced, err error) {
	if err := s.CatchUp(w.Ledger.Records(ctx, s.Next)); err != nil || !heal.Needed(s) {
		return none, err
	}
	now, err := Refresh(ctx, w.Vault, s, w.Domain, folder)
	if err != nil {
		return none, err
	}
	index, err := chunkindex.Open(now.Files)
	if err != nil {
		return none, err
	}
	defer index.Close()
	w.Index = index
	return w.Replace(ctx, s)
}
