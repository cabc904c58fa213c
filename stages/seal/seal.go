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
	p, raw := d.Parcel, d.Bytes()
	out := s.w.Arena.Bytes(slot.Number)
	out = out[:0:len(out)]
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
		if uint64(x.Offset)+uint64(x.Length) > uint64(len(raw)) {
			return "", nil, s.wrong(p, x, fmt.Errorf("a piece ends at %d of %d bytes", x.Offset+x.Length, len(raw)))
		}
		room := cap(out)
		at := len(out)
		var err error
		s.frame = s.codec.Encode(s.frame[:0], raw[x.Offset:x.Offset+x.Length])
		if out, err = s.keys.SealChunk(out, s.domain, x.Chunk, s.frame); err != nil {
			return "", nil, fmt.Errorf("seal %s: %w", x.Chunk, err)
		}
		if cap(out) != room {
			return "", nil, s.wrong(p, x, fmt.Errorf("sealed bytes do not fit a slot of %d", room))
		}
		if s.plain, err = s.keys.Decode(s.domain, x.Chunk, out[at:], s.plain[:0], s.ids); err != nil {
			if !d.Live() { // the slot was somebody else's meanwhile: no harm, no parcel
				return "", nil, nil
			}
			return "", nil, s.wrong(p, x, err)
		}
		x.At, x.Stored = uint32(at), uint32(len(out)-at)
		s.twins[x.Chunk] = i
	}
	if !d.Live() {
		return "", nil, nil
	}
	p.Claim = arena.Claim{Slot: slot.Number, Generation: slot.Generation, Length: uint32(len(out))}
	return flow.Uploader, p, nil
}

func (s *stage) wrong(p *flow.Parcel, x *flow.Piece, err error) error {
	return &flow.Fault{
		Class: flow.Corrupt, Code: "seal-mismatch", Op: "seal chunk", Object: fmt.Sprintf("%s at byte %d of %s", x.Chunk, p.Offset+int64(x.Offset), p),
		Cause: err.Error(), Err: err, Remedy: "test this machine's memory; nothing wrong was stored",
	}
}
