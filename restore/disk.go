package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/restore/gather"
	"github.com/millrace-backup/millrace/vault"
)

// Disk writes every byte of d that is not a hole onto w. It needs the vault's
// PartMeta, PartData and PartIDs. The first chunk that cannot be read, or write
// that fails, ends it; w then holds some of the disk. With o.Lost only the write does.
func Disk(ctx context.Context, v *vault.Vault, d events.PointDisk, w Target, o Options) error {
	pieces, err := disk(ctx, v, d, 0)
	if err != nil {
		return fmt.Errorf("restore disk %s: %w", d.Key, err)
	}
	r := newReader(v)
	t := tally{reader: r, tell: o.Progress, now: Progress{Size: d.Size}}
	lost := func(ps []piece, err error) error {
		if o.Lost == nil {
			return fmt.Errorf("bytes at %d: %w", ps[0].offset, err)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, p := range ps {
			o.Lost(Range{d.Disk, d.Key, p.offset, p.length}, asDamage(err))
		}
		return nil
	}
	batches := make(chan batch)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(batches)
		pl := planner{out: batches, window: window(v.Config.CellSize)}
		var at int64
		for p, err := range pieces(gctx) {
			if err != nil && o.Lost != nil && blamed(err) {
				return errors.Join(pl.flush(gctx), lost([]piece{{offset: at, length: d.Size - at}}, err))
			}
			if err != nil {
				return err
			}
			if err := pl.add(gctx, p, !p.zero); err != nil {
				return err
			}
			at = p.offset + p.length
		}
		return pl.flush(gctx)
	})
	for range o.workers() {
		worker := r.worker()
		g.Go(func() error {
			out := gather.New(w)
			return drain(gctx, batches, &t, func(b batch) error {
				if len(b.pieces) == 0 {
					return nil
				}
				out.Begin(b.pieces[0].offset, window(v.Config.CellSize))
				if err := worker.batch(gctx, b.pieces, sink{use: func(p piece, b []byte) error { return out.Put(p.offset, b) }, lost: lost}); err != nil {
					return err
				}
				return out.End()
			})
		})
	}
	if err := g.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // and not the first thing that noticed
		}
		return fmt.Errorf("restore disk %s: %w", d.Key, err)
	}
	return nil
}

// drain works off batches until there are no more.
func drain(ctx context.Context, batches <-chan batch, t *tally, work func(batch) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-batches:
			if !ok {
				return nil
			}
			var written int64
			for _, p := range b.pieces {
				written += p.length
			}
			if err := work(b); err != nil {
				return err
			}
			t.add(b.covers, written)
		}
	}
}

// tally counts and tells.
type tally struct {
	reader *reader
	tell   func(Progress)

	mu  sync.Mutex // guards now, and keeps calls of tell apart
	now Progress
}

func (t *tally) add(done, written int64) {
	if t.tell == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.Done += done
	t.now.Written += written
	t.now.Read = t.reader.read.Load()
	t.tell(t.now)
}
