package reader

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/vdisk"
	"golang.org/x/sync/errgroup"
)

// Opener opens a frozen disk for reading.
type Opener func(ctx context.Context, d flow.WorkDisk) (Image, error)

// Image is an open disk.
type Image interface {
	vdisk.Image
	io.Closer
}

// atOnce is how many runs of a partial parcel are read at the same time.
const atOnce = 16

// readSize is the size of one read: larger ones cost more CPU, not less.
const readSize = 1 << 20

type stage struct {
	w      *flow.Worker
	open   Opener
	images map[uint32]Image
	pace   *pace.Pace
}

// Run is the stage. It returns when the worker has drained.
func Run(ctx context.Context, w *flow.Worker, open Opener) error {
	p, err := pace.Of(w)
	if err != nil {
		return err
	}
	defer p.Close()
	s := &stage{w: w, open: open, images: map[uint32]Image{}, pace: p}
	err = w.Pump(ctx, arena.Raw, s.read)
	for _, im := range s.images {
		err = errors.Join(err, im.Close())
	}
	return err
}

func (s *stage) image(ctx context.Context, n uint32) (Image, error) {
	if im, ok := s.images[n]; ok {
		return im, nil
	}
	if int(n) >= len(s.w.Config.Work.Disks) {
		return nil, &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "open disk", Object: fmt.Sprint(n), Cause: "the job has no such disk", Remedy: "report this"}
	}
	d := s.w.Config.Work.Disks[n]
	im, err := s.open(ctx, d)
	if err != nil {
		return nil, unreadable("open disk", d.Info.Path, err)
	}
	s.images[n] = im
	return im, nil
}

func unreadable(op, object string, err error) error {
	return &flow.Fault{
		Class: flow.Park, Code: "image-unreadable", Op: op, Object: object, Cause: err.Error(), Err: err,
		Remedy: "check that the image is whole and its disk healthy, then run the job again",
	}
}

func (s *stage) read(ctx context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
	p := d.Parcel
	im, err := s.image(ctx, p.Disk)
	if err != nil {
		return "", nil, err
	}
	mem := s.w.Arena.Bytes(slot.Number)
	if p.Length > int64(len(mem)) {
		return "", nil, &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "read", Object: p.String(), Cause: fmt.Sprintf("%d bytes, a slot has %d", p.Length, len(mem)), Remedy: "report this"}
	}
	if err := fill(paced{ctx, im, s.pace}, p, mem[:p.Length], s.w.Config.Work.CellSize); err != nil {
		return "", nil, unreadable("read", s.w.Config.Work.Disks[p.Disk].Info.Path, err)
	}
	p.Claim = slot.Claim(int(p.Length))
	return flow.Chunker, p, nil
}

// paced is an image that is not read faster than the readers of the host may together.
type paced struct {
	ctx  context.Context
	im   io.ReaderAt
	pace *pace.Pace
}

func (p paced) ReadAt(b []byte, at int64) (int, error) {
	if err := p.pace.Wait(p.ctx, int64(len(b))); err != nil {
		return 0, err
	}
	return p.im.ReadAt(b, at)
}

// fill makes mem the bytes of the parcel: its runs as im has them, the rest zeros.
// Cells that no run touches stay as they are: chunker knows from the runs that they
// are holes and looks at none of their bytes, and clearing them is most of what a
// parcel with little in it costs. A parcel without runs is looked at whole.
func fill(im io.ReaderAt, p *flow.Parcel, mem []byte, cell int64) error {
	if p.Partial {
		return fillRuns(im, p, mem)
	}
	if len(p.Runs) == 0 {
		clear(mem)
	}
	at := int64(0)
	for _, r := range p.Runs {
		from := r.Offset - p.Offset
		clearEdges(mem, at, from, cell) // runs are sorted and apart: a parcel that breaks this is no message
		if err := readFull(im, mem[from:from+r.Length], r.Offset); err != nil {
			return err
		}
		at = from + r.Length
	}
	clearEdges(mem, at, int64(len(mem)), cell)
	return nil
}

// fillRuns reads the runs of a partial parcel. They are many and small, and each waits for
// the hypervisor to answer: several at a time wait for little more than one.
func fillRuns(im io.ReaderAt, p *flow.Parcel, mem []byte) error {
	g := errgroup.Group{}
	g.SetLimit(atOnce)
	for _, r := range p.Runs {
		from := r.Offset - p.Offset
		g.Go(func() error { return readFull(im, mem[from:from+r.Length], r.Offset) })
	}
	return g.Wait()
}

// clearEdges clears what a gap between runs, from one byte to another, has of cells
// that reach beyond it.
func clearEdges(mem []byte, from, to, cell int64) {
	first := min(to, (from+cell-1)/cell*cell)
	last := max(first, to/cell*cell)
	clear(mem[from:first])
	clear(mem[last:to])
}

func readFull(im io.ReaderAt, b []byte, at int64) error {
	for len(b) > 0 {
		n := min(len(b), readSize)
		if got, err := im.ReadAt(b[:n], at); got < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%d bytes at %d: %w", n, at, err)
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}
