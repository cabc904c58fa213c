package known

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
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
	bad     catalog.Bad              // what was withdrawn
}

// Trusts reports whether the pack was in the vault as the ledger has it, and
// neither retired nor withdrawn as a whole.
func (x Index) Trusts(p catalog.PackKey) bool { return x.trusted[p] }

// Refresh looks which packs are in the vault, brings the host's chunk index
// up to date and returns both: what the chunk tables of listed points place, and
// what lies in packs of jobs that died or failed before they wrote tables. Only
// chunks of the default domain are in it, and only those in packs that may be
// trusted to restore. A table that cannot be read places nothing.
func Refresh(ctx context.Context, v *vault.Vault, s *catalog.State, domain id.Domain, folder string) (Index, error) {
	bad := s.Bad(0)
	trusted, err := trustedPacks(ctx, v, s, bad)
	if err != nil {
		return Index{}, err
	}
	// A source places other chunks when other packs are trusted, or other chunks
	// were withdrawn, so the name that its rows are kept under says which were.
	salt := distrustedSum(s, trusted, bad)
	var sources []chunkindex.Source
	seen := map[id.Object]bool{}
	for _, p := range s.Listed() {
		if cmp.Or(p.Domain, v.Config.DefaultDomain) != domain {
			continue
		}
		for _, d := range p.Disks {
			for _, ref := range d.Chunks {
				if !ref.Name.IsZero() && !seen[ref.Name] {
					seen[ref.Name] = true
					sources = append(sources, chunkindex.Source{Name: salted(ref.Name, salt), Rows: tableRows(v, domain, trusted, bad, ref)})
				}
			}
		}
	}
	for key, p := range s.Packs {
		job := s.Jobs[key.Job]
		if !trusted[key] || p.Domain != domain || (job != nil && job.Finished != nil && job.Finished.Outcome == "done") {
			continue
		}
		sources = append(sources, chunkindex.Source{Name: salted(key.Pack, salt), Rows: footerRows(v, key, bad[key])})
	}
	files, err := chunkindex.Refresh(ctx, folder, sources)
	return Index{Files: files, trusted: trusted, bad: bad}, err
}

// trustedPacks are the packs that are in the vault with the size the ledger says,
// and that were neither retired nor withdrawn as a whole.
func trustedPacks(ctx context.Context, v *vault.Vault, s *catalog.State, bad catalog.Bad) (map[catalog.PackKey]bool, error) {
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
		if p := s.Packs[key]; p != nil && p.Retired == 0 && p.Size == e.Size && !bad.Whole(key) {
			trusted[key] = true
		}
	}
	return trusted, nil
}

// distrustedSum stands for the set of packs that are known and not trusted, and of
// chunks that were withdrawn from others. It is zero when there are none.
func distrustedSum(s *catalog.State, trusted map[catalog.PackKey]bool, bad catalog.Bad) (sum id.Object) {
	add := func(parts ...[]byte) {
		one := id.Sum(slices.Concat(parts...))
		for i := range sum { // in whatever order they come
			sum[i] ^= one[i]
		}
	}
	for key := range s.Packs {
		if !trusted[key] {
			add(key.Job[:], key.Pack[:])
			continue
		}
		for c := range bad[key] {
			add(key.Job[:], key.Pack[:], c[:])
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

func tableRows(v *vault.Vault, domain id.Domain, trusted map[catalog.PackKey]bool, bad catalog.Bad, ref events.TableRef) func(context.Context) iter.Seq2[chunkindex.Row, error] {
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
			if t.Domain() != domain {
				return
			}
			for r, err := range t.All(ctx) {
				if err != nil {
					yield(chunkindex.Row{}, lost(err))
					return
				}
				p := t.Packs()[r.Pack]
				key := catalog.PackKey{Job: p.Job, Pack: p.Name}
				if !trusted[key] || bad.Has(key, r.Chunk) {
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

func footerRows(v *vault.Vault, key catalog.PackKey, bad map[id.Chunk]bool) func(context.Context) iter.Seq2[chunkindex.Row, error] {
	return func(ctx context.Context) iter.Seq2[chunkindex.Row, error] {
		return func(yield func(chunkindex.Row, error) bool) {
			info, err := vault.ReadPackFooter(ctx, v.Store, v.Keys, key.Job, key.Pack)
			if err != nil {
				// Whatever it is, verify reports it and no backup waits for it.
				yield(chunkindex.Row{}, fmt.Errorf("%w: %w", chunkindex.ErrUnreadable, err))
				return
			}
			for _, e := range info.Entries {
				if bad[e.Chunk] {
					continue
				}
				place := chunkindex.Place{Job: key.Job, Pack: key.Pack, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw}
				if !yield(chunkindex.Row{Chunk: e.Chunk, Place: place}, nil) {
					return
				}
			}
		}
	}
}
