package prune

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

type chunkIDs map[id.Domain]*chunk.IDs

// moved is what moving sparse packs has made, and the facts that go with it.
type moved struct {
	facts   []events.Fact
	in      []ledger.ObjectRef
	gone    events.PacksRetired
	bytes   int64 // sealed, of the chunks
	written int64
	passed  []error // packs that stay, because something of them is damaged or missing
}

// where is a chunk's place.
type where struct {
	pack   table.PackRef
	offset uint32
}

// move copies what is needed of sparse packs into new ones and writes the tables
// that name them once more. Sealed chunks are bound to the vault and to their id,
// not to their pack, so their bytes stay as they are; each is opened, unpacked and
// compared with its id before it counts as copied. A pack in which one is
// damaged stays, as does one that is missing: the chunks beside it are not to be
// lost sight of.
func (w *Work) move(ctx context.Context, p *Plan) (moved, error) {
	m := moved{gone: events.PacksRetired{Why: "little of them was needed, which lies elsewhere now"}}
	c := copier{w: w, m: &m, to: map[where]where{}, open: map[id.Domain]*filling{}}
	defer c.abort()
	taken := map[table.PackRef]bool{}
	replaced := map[id.Object]events.TableRef{}
	for i := range p.Sparse {
		s := &p.Sparse[i]
		err := c.copy(ctx, s)
		if errors.Is(err, vault.ErrDamaged) {
			m.passed = append(m.passed, fmt.Errorf("move what is needed of %s: %w", vault.PackName(s.Pack.Job, s.Pack.Pack), err))
			continue
		}
		if err != nil {
			return m, fmt.Errorf("move what is needed of %s: %w", vault.PackName(s.Pack.Job, s.Pack.Pack), err)
		}
		taken[table.PackRef{Job: s.Pack.Job, Name: s.Pack.Pack}] = true
		m.gone.Packs = append(m.gone.Packs, s.Pack)
		for _, t := range s.Tables {
			replaced[t.Name] = t
		}
	}
	if err := c.close(ctx); err != nil {
		return m, err
	}
	for _, s := range p.Sparse { // in their order
		for _, t := range s.Tables {
			if replaced[t.Name].Name.IsZero() {
				continue
			}
			delete(replaced, t.Name)
			if err := c.rewrite(ctx, t, taken); err != nil {
				return m, fmt.Errorf("write %s once more: %w", table.ObjectName(t), err)
			}
		}
	}
	return m, nil
}

// copier copies chunks into new packs, one open for each domain.
type copier struct {
	w    *Work
	m    *moved
	to   map[where]where
	open map[id.Domain]*filling
}

// filling is a pack that is being filled. Where its chunks lie is known when it has
// its name.
type filling struct {
	w    *vault.PackWriter
	from []where
	at   []uint32
	raw  int64
}

func (c *copier) abort() {
	for _, f := range c.open {
		f.w.Abort()
	}
}

// copy copies what is needed of one pack, if all of that is whole.
func (c *copier) copy(ctx context.Context, s *Sparse) error {
	info, err := vault.ReadPackFooter(ctx, c.w.Vault.Store, c.w.Vault.Keys, s.Pack.Job, s.Pack.Pack)
	if err != nil {
		return missing(err)
	}
	entries := map[uint32]*vault.PackEntry{}
	for i := range info.Entries {
		entries[info.Entries[i].Offset] = &info.Entries[i]
	}
	type one struct {
		e      *vault.PackEntry
		sealed []byte
	}
	var all []one
	for _, at := range s.chunks {
		e := entries[at.offset]
		if e == nil || e.Stored != at.stored {
			return fmt.Errorf("no chunk of %d bytes is at %d: %w", at.stored, at.offset, vault.ErrDamaged)
		}
		sealed := make([]byte, e.Stored)
		_, err := c.w.Vault.Store.Get(ctx, vault.PackName(s.Pack.Job, s.Pack.Pack), int64(e.Offset), sealed)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", vault.ErrDamaged, err)
		}
		if err == nil {
			err = c.prove(info.Domain, e, sealed)
		}
		if err != nil {
			return missing(err)
		}
		all = append(all, one{e, sealed}) // less than half a pack
	}
	for _, x := range all {
		if err := c.add(ctx, &info, x.e, x.sealed); err != nil {
			return err
		}
	}
	return nil
}

// missing has a pack that is not there count as damaged.
func missing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	return err
}

// prove makes sure that a sealed chunk is the one that it should be.
func (c *copier) prove(d id.Domain, e *vault.PackEntry, sealed []byte) error {
	ids := c.w.ids[d]
	if ids == nil {
		key, err := c.w.Vault.Keys.IDKey(d)
		if err != nil {
			return err
		}
		if c.w.ids == nil {
			c.w.ids = chunkIDs{}
		}
		ids = chunk.NewIDs(key)
		c.w.ids[d] = ids
	}
	plain, err := c.w.Vault.Keys.Decode(d, e.Chunk, sealed, nil, ids)
	if err == nil && len(plain) != int(e.Raw) {
		err = fmt.Errorf("chunk %s has %d bytes, not %d: %w", id.Short(e.Chunk), len(plain), e.Raw, vault.ErrDamaged)
	}
	return err
}

func (c *copier) add(ctx context.Context, info *vault.PackInfo, e *vault.PackEntry, sealed []byte) error {
	from := where{table.PackRef{Job: info.Job, Name: info.Name}, e.Offset}
	for range 2 {
		f := c.open[info.Domain]
		if f == nil {
			w, err := vault.NewPartsWriter(ctx, c.w.Vault.Store, c.w.Vault.Keys, c.w.Job, info.Domain)
			if err != nil {
				return err
			}
			f = &filling{w: w}
			c.open[info.Domain] = f
		}
		at, err := f.w.Add(*e, info.Disks[e.Disk], sealed)
		if errors.Is(err, vault.ErrPackFull) {
			if err := c.finish(ctx, info.Domain); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		f.from, f.at, f.raw = append(f.from, from), append(f.at, at), f.raw+int64(e.Raw)
		c.m.bytes += int64(e.Stored)
		if f.w.Full() {
			return c.finish(ctx, info.Domain)
		}
		return nil
	}
	return fmt.Errorf("chunk %s of %d bytes: %w", id.Short(e.Chunk), len(sealed), vault.ErrPackFull)
}

// finish makes the open pack of a domain durable.
func (c *copier) finish(ctx context.Context, d id.Domain) error {
	f := c.open[d]
	delete(c.open, d)
	info, err := f.w.Close(ctx)
	if err != nil {
		return err
	}
	pack := table.PackRef{Job: info.Job, Name: info.Name}
	for i, from := range f.from {
		c.to[from] = where{pack, f.at[i]}
	}
	c.m.facts = append(c.m.facts, events.PackStored{Pack: info.Name, Domain: d, DataKey: info.DataKey, Size: info.Size,
		Chunks: uint32(len(info.Entries)), RawBytes: f.raw})
	c.m.in = append(c.m.in, ledger.ObjectRef{Name: vault.PackName(info.Job, info.Name), Sum: events.Hash(info.Name), Size: info.Size})
	c.m.written += info.Size
	return nil
}

func (c *copier) close(ctx context.Context) error {
	for d := range c.open {
		if err := c.finish(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// rewrite writes a chunk table with the same rows, in the same order, in which those
// that have moved lie where they lie now.
func (c *copier) rewrite(ctx context.Context, old events.TableRef, gone map[table.PackRef]bool) error {
	t, err := table.OpenChunks(ctx, c.w.Vault, old)
	if err != nil {
		return err
	}
	packs, err := c.packsOf(ctx, t, gone)
	if err != nil {
		return err
	}
	numbers := map[table.PackRef]uint32{}
	for n, p := range packs {
		numbers[p] = uint32(n)
	}
	rows := func(yield func(table.ChunkRow, error) bool) {
		for r, err := range c.placed(ctx, t, gone) {
			r.row.Pack = numbers[r.pack]
			if !yield(r.row, err) || err != nil {
				return
			}
		}
	}
	fresh, object, err := table.WriteChunks(ctx, c.w.Vault, c.w.Job, t.Domain(), packs, rows)
	if err != nil {
		return err
	}
	// The root is over what the rows say but for places: points stay what they were.
	if fresh.Root != old.Root || fresh.Rows != old.Rows {
		return fmt.Errorf("it has %d rows and root %s, not %d and %s: %w", fresh.Rows, fresh.Root, old.Rows, old.Root, vault.ErrDamaged)
	}
	c.m.facts = append(c.m.facts, events.TableReplaced{Old: old, New: fresh, Why: "chunks have moved"})
	c.m.in = append(c.m.in, object)
	c.m.gone.Tables = append(c.m.gone.Tables, old)
	c.m.written += fresh.Size
	return nil
}

// placedRow is a row and the pack it lies in now.
type placedRow struct {
	row  table.ChunkRow
	pack table.PackRef
}

// placed yields the rows of a table as they are now.
func (c *copier) placed(ctx context.Context, t *table.ChunkTable, gone map[table.PackRef]bool) iter.Seq2[placedRow, error] {
	return func(yield func(placedRow, error) bool) {
		for r, err := range t.All(ctx) {
			if err != nil {
				yield(placedRow{}, err)
				return
			}
			p := placedRow{r, t.Packs()[r.Pack]}
			if gone[p.pack] {
				to, ok := c.to[where{p.pack, r.Offset}]
				if !ok {
					yield(placedRow{}, fmt.Errorf("chunk %s was not copied: %w", id.Short(r.Chunk), ErrStale))
					return
				}
				p.pack, p.row.Offset = to.pack, to.offset
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// packsOf are the packs that the new table names, in the order of their first use.
func (c *copier) packsOf(ctx context.Context, t *table.ChunkTable, gone map[table.PackRef]bool) (packs []table.PackRef, err error) {
	seen := map[table.PackRef]bool{}
	for r, err := range c.placed(ctx, t, gone) {
		if err != nil {
			return nil, err
		}
		if !seen[r.pack] {
			seen[r.pack] = true
			packs = append(packs, r.pack)
		}
	}
	return packs, nil
}
