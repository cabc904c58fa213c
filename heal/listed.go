package heal

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Listed are the bad places that chunk tables list, each once, by pack. Tables that
// name no pack with a bad place cost the reading of their index.
func Listed(ctx context.Context, v *vault.Vault, tables []events.TableRef, bad catalog.Bad) (map[catalog.PackKey][]id.Chunk, error) {
	out, seen := map[catalog.PackKey][]id.Chunk{}, map[id.Object]bool{}
	met := catalog.Bad{}
	for _, ref := range tables {
		if len(bad) == 0 || ref.Name.IsZero() || seen[ref.Name] {
			continue
		}
		seen[ref.Name] = true
		t, err := table.OpenChunks(ctx, v, ref)
		if err != nil {
			return nil, err
		}
		if !names(t, bad) {
			continue
		}
		for r, err := range t.All(ctx) {
			if err != nil {
				return nil, fmt.Errorf("look for what was withdrawn: %w", err)
			}
			if k := key(t.Packs()[r.Pack]); bad.Has(k, r.Chunk) && !met[k][r.Chunk] {
				met.Add(k, r.Chunk)
				out[k] = append(out[k], r.Chunk)
			}
		}
	}
	return out, nil
}

func key(p table.PackRef) catalog.PackKey { return catalog.PackKey{Job: p.Job, Pack: p.Name} }

// names reports whether a table names a pack with a bad place.
func names(t *table.ChunkTable, bad catalog.Bad) bool {
	return slices.ContainsFunc(t.Packs(), func(p table.PackRef) bool { return bad[key(p)] != nil })
}
