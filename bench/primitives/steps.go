package primitives

import (
	"context"
	"crypto/sha256"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// The steps, in the order of a job. Codecs stand between ids and seal.
const (
	stepRead   = "read"
	stepBlocks = "hash: blocks"
	stepCut    = "cut"
	stepIDs    = "hash: chunk ids"
	stepCodec  = "compress: "
	stepSeal   = "seal"
	stepVerify = "verify"
	stepSHA    = "SHA-256"
	stepWrite  = "write"
)

// batch is how many parcels go through a step before the next one takes them: the raw
// slots of a job, so that bytes come from as far away as they do there.
const batch = 8

// took is what one step took in one pass over the image.
type took struct {
	wall, cpu time.Duration
	bytes     int64 // that it worked on
}

// pass is one time over the image.
type pass struct {
	*hand
	codecs  map[string]vault.Codec
	names   []string
	normal  string // the codec whose frames are sealed
	arena   *arena.Arena
	took    map[string]*took
	seen    map[id.Chunk]bool
	current []work
	pieces  []chunk.Piece
	plain   []byte
	scratch []byte
	err     error
}

// work is a parcel in a batch.
type work struct {
	*parcel
	raw    []byte
	hashes []chunk.BlockHash
	pieces []piece
	frames []byte
	sealed []byte
}

// piece is a chunk to be stored.
type piece struct {
	chunk.Piece
	id                   id.Chunk
	frame, frameEnd      int
	sealedAt, sealedUpTo int
}

// lap times one step over the whole batch. Nothing else runs in this process.
func (p *pass) lap(step string, bytes int64, f func(w *work) error) {
	t := p.took[step]
	if t == nil {
		t = &took{}
		p.took[step] = t
	}
	start, clock := time.Now(), gauge.Clock()
	for i := range p.current {
		if p.err == nil {
			p.err = f(&p.current[i])
		}
	}
	t.cpu += gauge.Clock() - clock
	t.wall += time.Since(start)
	t.bytes += bytes
}

// likeAWorker sets the runtime as the conductor sets it for a worker.
func likeAWorker(threads int) (restore func()) {
	procs, percent := runtime.GOMAXPROCS(threads), debug.SetGCPercent(400)
	runtime.GC()
	return func() {
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(percent)
	}
}

// alone measures every step by itself, in one thread.
func (k *kit) alone(ctx context.Context, codecs []string, normal string) (map[string]*took, error) {
	defer likeAWorker(1)()
	h, err := k.newHand()
	if err != nil {
		return nil, err
	}
	cell := int(k.vault.Config.CellSize)
	p := &pass{hand: h, names: codecs, normal: normal, codecs: map[string]vault.Codec{}, took: map[string]*took{}, seen: map[id.Chunk]bool{}}
	for _, name := range codecs {
		if p.codecs[name], err = vault.NewCodec(name); err != nil {
			return nil, err
		}
	}
	if p.arena, err = arena.New(arena.Shape{RawSlots: batch, RawSize: cell, SealedSlots: 2 * batch, SealedSize: arena.SealedSize(cell)}); err != nil {
		return nil, err
	}
	defer p.arena.Close()
	k.fresh()
	for at := 0; at < len(k.parcels) && p.err == nil && ctx.Err() == nil; at += batch {
		p.current = p.current[:0]
		for i := at; i < min(at+batch, len(k.parcels)); i++ {
			n := uint32(i - at)
			p.current = append(p.current, work{
				hashes: make([]chunk.BlockHash, 0, 1<<10), parcel: &k.parcels[i], raw: p.arena.Bytes(n)[:k.parcels[i].length], frames: p.arena.Bytes(batch + n)[:0], sealed: p.arena.Bytes(2*batch + n)[:0],
			})
		}
		p.batch(ctx)
	}
	if p.err == nil {
		p.err = ctx.Err()
	}
	p.lap(stepWrite, 0, func(w *work) error { return p.flush(ctx) })
	return p.took, p.err
}

// batch takes the current parcels through all steps.
func (p *pass) batch(ctx context.Context) {
	var raw, whole int64
	for i := range p.current {
		whole += p.current[i].length
		for _, r := range p.current[i].runs {
			raw += r.Length
		}
	}
	p.lap(stepRead, raw, func(w *work) error { return p.read(w.parcel, w.raw) })
	p.lap(stepBlocks, whole, func(w *work) error {
		p.blocks.Disk(id.Guest{1}, id.Disk{1})
		w.hashes = p.hash(w, w.hashes)
		p.blocks.Sum(w.hashes)
		return nil
	})
	p.lap(stepCut, whole, func(w *work) error {
		p.pieces = p.cutter.CutHashed(w.raw, w.hashes, p.pieces[:0])
		for _, x := range p.pieces {
			if !x.Zero {
				w.pieces = append(w.pieces, piece{Piece: x})
			}
		}
		return nil
	})
	data := p.size()
	p.lap(stepIDs, data, func(w *work) error {
		for i := range w.pieces {
			x := &w.pieces[i]
			x.id = p.ids.ID(w.raw[x.Offset : x.Offset+x.Length])
		}
		return nil
	})
	p.dropKnown()
	p.store(ctx, p.size())
}

// hash does what chunker does for the blocks of a parcel: those that no run touches are
// known to be zeros.
func (p *pass) hash(w *work, dst []chunk.BlockHash) []chunk.BlockHash {
	size := int64(p.blocks.Size())
	for _, r := range w.runs {
		first := max(int((r.Offset-w.offset)/size), len(dst))
		end := int((r.End() - w.offset + size - 1) / size)
		if end <= first {
			continue
		}
		dst = p.blocks.Holes(first-len(dst), dst)
		from := int64(first) * size
		dst = p.blocks.Hash(w.offset+from, w.raw[from:min(int64(end)*size, w.length)], dst)
	}
	return p.blocks.Holes(int((w.length+size-1)/size)-len(dst), dst)
}

// store compresses, seals, proves and writes what is new: data bytes.
func (p *pass) store(ctx context.Context, data int64) {
	for _, name := range p.names {
		codec := p.codecs[name]
		if name != p.normal {
			p.lap(stepCodec+name, data, func(w *work) error {
				for i := range w.pieces {
					x := &w.pieces[i]
					p.scratch = codec.Encode(p.scratch[:0], w.raw[x.Offset:x.Offset+x.Length])
				}
				return nil
			})
			continue
		}
		p.lap(stepCodec+name, data, func(w *work) error {
			for i := range w.pieces {
				x := &w.pieces[i]
				x.frame = len(w.frames)
				w.frames = codec.Encode(w.frames, w.raw[x.Offset:x.Offset+x.Length])
				x.frameEnd = len(w.frames)
			}
			return nil
		})
	}
	keys := p.vault.Keys
	p.lap(stepSeal, p.framed(), func(w *work) (err error) {
		for i := range w.pieces {
			x := &w.pieces[i]
			x.sealedAt = len(w.sealed)
			if w.sealed, err = keys.SealChunk(w.sealed, p.domain, x.id, w.frames[x.frame:x.frameEnd]); err != nil {
				return err
			}
			x.sealedUpTo = len(w.sealed)
		}
		return nil
	})
	p.lap(stepVerify, data, func(w *work) (err error) {
		for i := range w.pieces {
			x := &w.pieces[i]
			if p.plain, err = keys.Decode(p.domain, x.id, w.sealed[x.sealedAt:x.sealedUpTo], p.plain[:0], p.ids); err != nil {
				return err
			}
		}
		return nil
	})
	var sealed int64
	for i := range p.current {
		sealed += int64(len(p.current[i].sealed))
	}
	sum := sha256.New()
	p.lap(stepSHA, sealed, func(w *work) error {
		for i := range w.pieces {
			sum.Write(w.sealed[w.pieces[i].sealedAt:w.pieces[i].sealedUpTo])
		}
		return nil
	})
	p.lap(stepWrite, sealed, func(w *work) error {
		for i := range w.pieces {
			x := &w.pieces[i]
			if err := p.add(ctx, x.id, w.offset+x.Offset, uint32(x.Length), w.sealed[x.sealedAt:x.sealedUpTo]); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropKnown leaves each chunk once, as delta does.
func (p *pass) dropKnown() {
	for i := range p.current {
		w := &p.current[i]
		keep := w.pieces[:0]
		for _, x := range w.pieces {
			if !p.seen[x.id] {
				p.seen[x.id] = true
				keep = append(keep, x)
			}
		}
		w.pieces = keep
	}
}

func (p *pass) size() (n int64) {
	for i := range p.current {
		for _, x := range p.current[i].pieces {
			n += x.Length
		}
	}
	return n
}

func (p *pass) framed() (n int64) {
	for i := range p.current {
		n += int64(len(p.current[i].frames))
	}
	return n
}
