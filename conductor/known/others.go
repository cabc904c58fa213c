package known

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// maxOthers is how many packs of other jobs a job learns of while it runs: two
// TiB. What they store beyond that is unknown to it, which costs space.
const maxOthers = 1 << 16

// OthersFolder is where in a job's folder the index files of Others are.
const OthersFolder = "others"

// Others learns what other jobs store while this one runs: show it the facts as
// they enter the ledger, and let it write index files that workers follow. A job
// on another host with the same disks then stores what it has first, and this one
// the rest. It is for one goroutine.
type Others struct {
	Vault  *vault.Vault
	Domain id.Domain // of the job; other domains' packs are of no use to it
	Job    id.Job    // whose own packs are not meant
	Folder string    // for the files; the job's own

	packs []catalog.PackKey
	sizes map[catalog.PackKey]int64
	news  bool
}

// Heed takes in a fact.
func (o *Others) Heed(r events.Record) {
	if o.sizes == nil {
		o.sizes = map[catalog.PackKey]int64{}
	}
	switch f := r.Fact.(type) {
	case events.PackStored:
		key := catalog.PackKey{Job: r.Job, Pack: f.Pack}
		if r.Job == o.Job || f.Domain != o.Domain || len(o.packs) == maxOthers || o.sizes[key] != 0 {
			return
		}
		o.packs, o.sizes[key], o.news = append(o.packs, key), f.Size, true
	case events.PacksRetired:
		for _, p := range f.Packs {
			o.drop(catalog.PackKey{Job: p.Job, Pack: p.Pack})
		}
	case events.ChunkWithdrawn:
		o.drop(catalog.PackKey{Job: f.Job, Pack: f.Pack})
	}
}

// drop forgets a pack: the next Index makes its chunks unknown. What was found in
// it before is looked at once more before the commit.
func (o *Others) drop(key catalog.PackKey) {
	if o.sizes[key] > 0 {
		o.sizes[key], o.news = -1, true
	}
}

// Index brings the files up to date and reports whether anything was new. A pack
// that cannot be read, or is not as the ledger has it, places nothing.
func (o *Others) Index(ctx context.Context) (bool, error) {
	if !o.news {
		return false, nil
	}
	var sources []chunkindex.Source
	for _, key := range o.packs {
		if size := o.sizes[key]; size > 0 {
			sources = append(sources, chunkindex.Source{Name: key.Pack, Rows: o.rows(key, size)})
		}
	}
	if _, err := chunkindex.Refresh(ctx, o.Folder, sources); err != nil {
		return false, fmt.Errorf("index what other jobs have stored: %w", err)
	}
	o.news = false
	return true, nil
}

func (o *Others) rows(key catalog.PackKey, size int64) func(context.Context) iter.Seq2[chunkindex.Row, error] {
	return func(ctx context.Context) iter.Seq2[chunkindex.Row, error] {
		e, err := store.Stat(ctx, o.Vault.Store, vault.PackName(key.Job, key.Pack))
		if err == nil && e.Size != size {
			err = fmt.Errorf("%d bytes instead of %d: %w", e.Size, size, vault.ErrDamaged)
		}
		if err != nil {
			return func(yield func(chunkindex.Row, error) bool) {
				yield(chunkindex.Row{}, fmt.Errorf("%w: %w", chunkindex.ErrUnreadable, err))
			}
		}
		return footerRows(o.Vault, key, nil)(ctx)
	}
}
