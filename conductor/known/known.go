package known

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Index is what a job may refer to of what is in the vault already. With the
// zero Index it refers to nothing and stores everything.
type Index struct {
	Files   []string                 // see catalog/chunkindex
	trusted map[catalog.PackKey]bool // packs that are as the ledger has them
}

// Trusts reports whether the pack was in the vault as the ledger has it, and
// neither retired nor found to hold a damaged chunk.
func (x Index) Trusts(p catalog.PackKey) bool { return x.trusted[p] }

// Refresh looks which packs are in the vault, brings the host's chunk index
// up to date and returns both: what the chunk tables of listed points place, and
// what lies in packs of jobs that died or failed before they wrote tables. Only
// chunks of the default domain are in it, and only those in packs that may be
// trusted to restore. A table that cannot be read places nothing.
func Refresh(ctx context.Context, v *vault.Vault, s *catalog.State, folder string) (Index, error) {
	trusted, err := trustedPacks(ctx, v, s)
	if err != nil {
		return Index{}, err
	}
	// A source places other chunks when other packs are trusted, so the name that
	// its rows are kept under says which were not.
	salt := distrustedSum(s, trusted)
	var sources []chunkindex.Source
	seen := map[id.Object]bool{}
	for _, p := range s.Listed() {
		for _, d := range p.Disks {
			for _, ref := range d.Chunks {
				if !ref.Name.IsZero() && !seen[ref.Name] {
					seen[ref.Name] = true
					sources = append(sources, chunkindex.Source{Name: salted(ref.Name, salt), Rows: tableRows(v, trusted, ref)})
				}
			}
		}
	}
	for key, p := range s.Packs {
		job := s.Jobs[key.Job]
		if !trusted[key] || p.Domain != v.Config.DefaultDomain || (job != nil && job.Finished != nil && job.Finished.Outcome == "done") {
			continue
		}
		sources = append(sources, chunkindex.Source{Name: salted(key.Pack, salt), Rows: footerRows(v, key)})
	}
	files, err := chunkindex.Refresh(ctx, folder, sources)
	return Index{Files: files, trusted: trusted}, err
}

// trustedPacks are the packs that are in the vault with the size the ledger says,
// and that were neither retired nor found to hold a damaged chunk.
func trustedPacks(ctx context.Context, v *vault.Vault, s *catalog.State) (map[catalog.PackKey]bool, error) {
	trusted := map[catalog.PackKey]bool{}
	for e, err := range v.Store.List(ctx, "packs/") {
		if err != nil {
			return nil, fmt.Errorf("list the packs of the vault: %w", err)
		}
		var key catalog.PackKey
		folder, name := path.Split(strings.TrimPrefix(e.Name, "packs/"))
		if key.Job.UnmarshalText([]byte(strings.TrimSuffix(folder, "/"))) != nil || key.Pack.UnmarshalText([]byte(name)) != nil {
			continue // not a pack's name
		}
		if p := s.Packs[key]; p != nil && p.Retired == 0 && p.Size == e.Size {
			trusted[key] = true
		}
	}
	for w := range s.Withdrawn {
		delete(trusted, w.PackKey)
	}
	return trusted, nil
}

// distrustedSum stands for the set of packs that are known and not trusted. It is
// zero when there are none.
func distrustedSum(s *catalog.State, trusted map[catalog.PackKey]bool) (sum id.Object) {
	for key := range s.Packs {
		if !trusted[key] {
			one := id.Sum(append(key.Job[:], key.Pack[:]...))
			for i := range sum { // in whatever order they come
				sum[i] ^= one[i]
			}
		}
	}
	return sum
}

func salted(name, salt id.Object) id.Object {
	if salt.IsZero() {
		return name
	}
	return id.Sum(append(name[:], salt[:]...))
}

func tableRows(v *vault.Vault, trusted map[catalog.PackKey]bool, ref events.TableRef) func(context.Context) iter.Seq2[chunkindex.Row, error] {
	// What the ledger says of the table must not block the backup that would
	// make a point which does not need it.
	lost := func(err error) error {
		if errors.Is(err, vault.ErrDamaged) || errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: %w", chunkindex.ErrUnreadable, err)
		}
		return err
	}
	return func(ctx context.Context) iter.Seq2[chunkindex.Row, error] {
		return func(yield func(chunkindex.Row, error) bool) {
			t, err := table.OpenChunks(ctx, v, ref)
			if err != nil {
				yield(chunkindex.Row{}, lost(err))
				return
			}
			if t.Domain() != v.Config.DefaultDomain {
				return
			}
			for r, err := range t.All(ctx) {
				if err != nil {
					yield(chunkindex.Row{}, lost(err))
					return
				}
				p := t.Packs()[r.Pack]
				if !trusted[catalog.PackKey{Job: p.Job, Pack: p.Name}] {
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
				// Whatever it is, verify reports it and no backup waits for it.
				yield(chunkindex.Row{}, fmt.Errorf("%w: %w", chunkindex.ErrUnreadable, err))
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
