package relay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pipe"
	"github.com/millrace-backup/millrace/id"
)

// What a parcel carries for each of its cells in a backup of a disk full of files.
const (
	pieceSize  = cellSize / 60
	blocksSize = 1 + 16*1024 + 2*128 // the record of a cell in a sidecar
	packSize   = 32 << 20
	idle       = 25 * time.Millisecond
)

// Worker is a worker's whole life. control is its standard input.
func Worker(ctx context.Context, control io.Reader) (err error) {
	in := bufio.NewReaderSize(control, 64<<10)
	cfg, err := pipe.Read(in)
	if err != nil {
		return err
	}
	w, err := flow.Connect(ctx, cfg, in)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.Alarm(flow.AsFault(err, cfg.Stage))
		}
		err = errors.Join(err, w.Close())
	}()
	s := &stage{w: w, size: cfg.Work.ParcelSize}
	switch cfg.Stage {
	case flow.Snapshot:
		return s.send(ctx)
	case flow.Reader:
		return w.Pump(ctx, arena.Raw, s.read)
	case flow.Chunker:
		s.invent()
		return w.Pump(ctx, arena.NoSlot, s.cut)
	case flow.Delta:
		return w.Pump(ctx, arena.NoSlot, s.judge)
	case flow.Seal:
		return w.Pump(ctx, arena.Sealed, s.seal)
	case flow.Uploader:
		return s.upload(ctx)
	}
	return s.count(ctx)
}

type stage struct {
	w      *flow.Worker
	size   int64 // of a parcel
	pieces flow.Pieces
	blocks []byte
	held   []*flow.Delivery
}

// send is snapshot: it sends the parcels and stays until it is told to leave.
func (s *stage) send(ctx context.Context) error {
	for n := range s.w.Config.Work.Parcels(0) {
		at := int64(n) * s.size
		p := &flow.Parcel{Number: n, Offset: at, Length: s.size, Runs: []flow.Run{{Offset: at, Length: s.size}}}
		if err := s.w.Send(ctx, flow.Reader, &flow.Message{Parcel: p}); err != nil {
			return err
		}
	}
	<-s.w.Draining()
	return nil
}

func (s *stage) read(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
	p := d.Parcel
	p.Claim = slot.Claim(int(p.Length))
	return flow.Chunker, p, nil
}

// invent makes what the chunker would find out.
func (s *stage) invent() {
	from := rand.NewChaCha8([32]byte{1})
	s.blocks = make([]byte, s.size/cellSize*blocksSize)
	_, _ = from.Read(s.blocks)
	for at := int64(0); at < s.size; at += pieceSize {
		x := flow.Piece{Offset: uint32(at), Length: uint32(min(pieceSize, s.size-at))}
		_, _ = from.Read(x.Chunk[:])
		s.pieces = append(s.pieces, x)
	}
}

func (s *stage) cut(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
	if !d.Live() {
		return "", nil, nil
	}
	p := d.Parcel
	p.Pieces = append(p.Pieces[:0], s.pieces...)
	p.Runs, p.Sum, p.Blocks = nil, s.blocks[:16], s.blocks
	return flow.Delta, p, nil
}

func (s *stage) judge(_ context.Context, d *flow.Delivery, _ arena.Slot) (string, *flow.Parcel, error) {
	for i := range d.Parcel.Pieces {
		d.Parcel.Pieces[i].Verdict = flow.New
	}
	return flow.Seal, d.Parcel, nil
}

func (s *stage) seal(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
	if !d.Live() {
		return "", nil, nil
	}
	p := d.Parcel
	for i := range p.Pieces {
		p.Pieces[i].At, p.Pieces[i].Stored = p.Pieces[i].Offset/2, p.Pieces[i].Length/2
	}
	p.Claim = slot.Claim(int(s.size / 2))
	return flow.Uploader, p, nil
}

// upload holds parcels as long as a pack would take them.
func (s *stage) upload(ctx context.Context) error {
	for {
		d, ok := s.w.TryNext(ctx, idle)
		if !ok {
			return errors.Join(ctx.Err(), s.flush(ctx))
		}
		if d != nil {
			s.held = append(s.held, d)
		}
		full := int64(len(s.held))*s.size/2 >= packSize || len(s.held) >= flow.MaxAckPending/2 || s.w.Pressed(ctx, len(s.held), d == nil)
		if full || d == nil && len(s.held) > 0 && s.nothingComes(ctx) {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
}

func (s *stage) nothingComes(ctx context.Context) bool {
	n, err := s.w.Queued(ctx)
	return err == nil && n[flow.Reader]+n[flow.Chunker]+n[flow.Delta]+n[flow.Seal] == 0
}

func (s *stage) flush(ctx context.Context) error {
	for _, d := range s.held {
		out := *d.Parcel
		out.Claim = arena.Claim{}
		out.Packs = []flow.Pack{{Name: id.Object{1}, Size: packSize, Chunks: uint32(len(d.Parcel.Pieces)), Raw: d.Parcel.Length}}
		if err := s.w.Forward(ctx, d, flow.Indexer, &flow.Message{Parcel: &out}); err != nil {
			return err
		}
	}
	s.held = s.held[:0]
	return nil
}

// count is the indexer: it says so when all parcels have come, until it is told to
// leave.
func (s *stage) count(ctx context.Context) error {
	want := int(s.w.Config.Work.Parcels(0))
	seen := make(map[uint32]bool, want)
	for {
		d, ok := s.w.TryNext(ctx, idle)
		if !ok {
			return ctx.Err()
		}
		if d != nil {
			if d.Parcel != nil {
				seen[d.Parcel.Number] = true
			}
			if err := d.Done(); err != nil {
				return err
			}
		}
		if len(seen) == want && (d == nil || d.Parcel != nil) {
			if err := s.w.Publish(address.ProgressSubject(s.w.Config.Job), []byte{1}); err != nil {
				return err
			}
		}
	}
}
