package conductor

import (
	"context"
	"iter"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// RefreshIndex brings the host's chunk index of a vault up to date and returns
// its files: what the chunk tables of listed points place, and what lies in packs
// of jobs that died or failed before they wrote tables. Only chunks of the
// default domain are in it.
func RefreshIndex(ctx context.Context, v *vault.Vault, s *catalog.State, folder string) ([]string, error) {
	var sources []chunkindex.Source
	seen := map[id.Object]bool{}
	for _, p := range s.Listed() {
		for _, d := range p.Disks {
			for _, ref := range d.Chunks {
				if !seen[ref.Name] {
					seen[ref.Name] = true
					sources = append(sources, chunkindex.Source{Name: ref.Name, Rows: tableRows(v, s, ref)})
				}
			}
		}
	}
	for key, p := range s.Packs {
		job := s.Jobs[key.Job]
		if p.Retired != 0 || p.Domain != v.Config.DefaultDomain || (job != nil && job.Finished != nil && job.Finished.Outcome == "done") {
			continue
		}
		sources = append(sources, chunkindex.Source{Name: key.Pack, Rows: footerRows(v, key)})
	}
	return chunkindex.Refresh(ctx, folder, sources)
}

func tableRows(v *vault.Vault, s *catalog.State, ref events.TableRef) func(context.Context) iter.Seq2[chunkindex.Row, error] {
	return func(ctx context.Context) iter.Seq2[chunkindex.Row, error] {
		return func(yield func(chunkindex.Row, error) bool) {
			t, err := table.OpenChunks(ctx, v, ref)
			if err != nil {
				yield(chunkindex.Row{}, err)
				return
			}
			if t.Domain() != v.Config.DefaultDomain {
				return
			}
			for r, err := range t.All(ctx) {
				if err != nil {
					yield(chunkindex.Row{}, err)
					return
				}
				p := t.Packs()[r.Pack]
				if known := s.Packs[catalog.PackKey{Job: p.Job, Pack: p.Name}]; known == nil || known.Retired != 0 {
					continue // nothing new may refer to it
				}
				place := chunkindex.Place{Job: p.Job, Pack: p.Name, Offset: r.Offset, Stored: r.Stored, Raw: r.Raw}
				if !yield(chunkindex.Row{Chunk: r.Chunk, Place: place}, nil) {
					return
				}
			}
		}
	}
}

func footerRows(v *vault.Vault, key catalog.PackKey) func(context.Context) iter.Seq2[chunkindex.Row, error] {
	return func(ctx context.Context) iter.Seq2[chunkindex.Row, error] {
		return func(yield func(chunkindex.Row, error) bool) {
			info, err := vault.ReadPackFooter(ctx, v.Store, v.Keys, key.Job, key.Pack)
			if err != nil {
				// A pack that cannot be read places nothing; verify reports it.
				return
			}
			for _, e := range info.Entries {
				place := chunkindex.Place{Job: key.Job, Pack: key.Pack, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw}
				if !yield(chunkindex.Row{Chunk: e.Chunk, Place: place}, nil) {
					return
				}
			}
		}
	}
}
