package primitives

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/vault"
)

// loop is the bare loop: threads goroutines take parcels from reading to writing.
// It returns what it took and how many bytes it stored.
func (k *kit) loop(ctx context.Context, codec string, threads int) (gauge.Cost, int64, error) {
	defer likeAWorker(threads)()
	cell := int(k.vault.Config.CellSize)
	mem, err := arena.New(arena.Shape{RawSlots: threads, RawSize: cell, SealedSlots: threads, SealedSize: arena.SealedSize(cell)})
	if err != nil {
		return gauge.Cost{}, 0, err
	}
	defer mem.Close()
	k.fresh()
	var next, stored atomic.Int64
	cost, err := gauge.Spent(func() error {
		g, ctx := errgroup.WithContext(ctx)
		for n := range threads {
			g.Go(func() error {
				h, err := k.newHand()
				if err != nil {
					return err
				}
				l := &lane{hand: h, raw: mem.Bytes(uint32(n)), sealed: mem.Bytes(uint32(threads + n))}
				if l.codec, err = vault.NewCodec(codec); err != nil {
					return err
				}
				for at := next.Add(1) - 1; at < int64(len(k.parcels)); at = next.Add(1) - 1 {
					if err := l.parcel(ctx, &k.parcels[at]); err != nil {
						return fmt.Errorf("parcel at %d: %w", k.parcels[at].offset, err)
					}
				}
				err = l.flush(ctx)
				stored.Add(l.stored)
				return err
			})
		}
		return g.Wait()
	})
	return cost, stored.Load(), err
}

// lane is one goroutine of the loop.
type lane struct {
	*hand
	codec       vault.Codec
	raw, sealed []byte
	pieces      []chunk.Piece
	frame       []byte
	plain       []byte
}

func (l *lane) parcel(ctx context.Context, p *parcel) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	raw, out, keys := l.raw[:p.length], l.sealed[:0], l.vault.Keys
	if err := l.read(p, raw); err != nil {
		return err
	}
	l.pieces = l.cutter.Cut(raw, l.pieces[:0])
	for _, x := range l.pieces {
		if x.Zero {
			continue
		}
		content := raw[x.Offset : x.Offset+x.Length]
		name := l.ids.ID(content)
		l.frame = l.codec.Encode(l.frame[:0], content)
		at := len(out)
		if out, err = keys.SealChunk(out, l.domain, name, l.frame); err != nil {
			return err
		}
		if l.plain, err = keys.Decode(l.domain, name, out[at:], l.plain[:0], l.ids); err != nil {
			return err
		}
		if err := l.add(ctx, name, p.offset+x.Offset, uint32(x.Length), out[at:]); err != nil {
			return err
		}
	}
	return nil
}
