package seal

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

type stage struct {
	w      *flow.Worker
	keys   *vault.Keys
	codec  vault.Codec
	ids    *chunk.IDs
	domain id.Domain
	frame  []byte
	plain  []byte
	join   []byte
	twins  map[id.Chunk]int
}

// Run is the stage. keys need the data and id keys of the job's dedup domain.
func Run(ctx context.Context, w *flow.Worker, keys *vault.Keys, codec vault.Codec, ids *chunk.IDs) error {
	s := &stage{w: w, keys: keys, codec: codec, ids: ids, domain: w.Config.Work.Domain, twins: map[id.Chunk]int{}}
	return w.Pump(ctx, arena.Sealed, s.seal)
}

func (s *stage) seal(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
	if !d.Live() {
		return "", nil, nil
	}
	p := d.Parcel
	n, err := s.parcel(p, d.Bytes(), s.w.Arena.Bytes(slot.Number))
	if !d.Live() { // the slot was somebody else's meanwhile: no harm, no parcel
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	p.Claim = slot.Claim(n)
	return flow.Uploader, p, nil
}

// parcel seals the new pieces of p, whose bytes are raw, into slot and puts their
// places into them. It returns how much of slot they take.
func (s *stage) parcel(p *flow.Parcel, raw, slot []byte) (int, error) {
	out := slot[:0:len(slot)]
	clear(s.twins)
	for i := range p.Pieces {
		x := &p.Pieces[i]
		if x.Verdict != flow.New || x.Zero {
			continue
		}
		if n, twin := s.twins[x.Chunk]; twin {
			x.At, x.Stored = p.Pieces[n].At, p.Pieces[n].Stored
			continue
		}
		content, err := s.content(p.Pieces[i:], raw)
		if err != nil {
			return 0, s.wrong(p, x, err)
		}
		at := len(out)
		s.frame = s.codec.Encode(s.frame[:0], content)
		if out, err = s.keys.SealChunk(out, s.domain, x.Chunk, s.frame); err != nil {
			return 0, fmt.Errorf("seal %s: %w", x.Chunk, err)
		}
		if len(out) > len(slot) { // it has moved out of the slot
			return 0, s.wrong(p, x, fmt.Errorf("sealed bytes do not fit a slot of %d", len(slot)))
		}
		if s.plain, err = s.keys.Decode(s.domain, x.Chunk, out[at:], s.plain[:0], s.ids); err != nil {
			return 0, s.wrong(p, x, err)
		}
		x.At, x.Stored = uint32(at), uint32(len(out)-at)
		s.twins[x.Chunk] = i
	}
	return len(out), nil
}

// content is the chunk of the first of pieces, out of the parcel's bytes, raw. That
// of a chunk in parts is put together from them, in order; they all follow. It is
// good until the next call.
func (s *stage) content(pieces []flow.Piece, raw []byte) ([]byte, error) {
	first := &pieces[0]
	s.join = s.join[:0]
	for i := range pieces {
		x := &pieces[i]
		if i > 0 && (x.Raw == 0 || x.Chunk != first.Chunk || x.From != uint32(len(s.join))) {
			continue
		}
		if uint64(x.Offset)+uint64(x.Length) > uint64(len(raw)) {
			return nil, fmt.Errorf("a piece of %d bytes at %d of %d", x.Length, x.Offset, len(raw))
		}
		b := raw[x.Offset : x.Offset+x.Length]
		if first.Raw == 0 {
			return b, nil
		}
		if s.join = append(s.join, b...); len(s.join) == int(first.Raw) {
			return s.join, nil
		}
	}
	return nil, fmt.Errorf("the parts of a chunk of %d bytes have %d", first.Raw, len(s.join))
}

func (s *stage) wrong(p *flow.Parcel, x *flow.Piece, err error) error {
	return &flow.Fault{
		Class: flow.Corrupt, Code: "seal-mismatch", Op: "seal chunk", Object: fmt.Sprintf("%s at byte %d of %s", x.Chunk, p.Offset+int64(x.Offset), p),
		Cause: err.Error(), Err: err, Remedy: "test this machine's memory; nothing wrong was stored",
	}
}
