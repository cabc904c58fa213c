package layers

import (
	"context"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Disk is one disk of the guest.
type Disk struct {
	Size   int64
	Parent *events.PointDisk // the same disk in the parent point; nil: none
	// Found yields in order what the job found on the disk and does not know to
	// be as in the parent: chunks, and zeros wherever there were some, which are
	// compared with the parent here. It is called up to twice.
	Found func(ctx context.Context) iter.Seq2[table.MapPiece, error]
}

// Layer is what was written for one disk.
type Layer struct {
	Table events.TableRef // zero: nothing, the disk is as in the parent
	Base  bool            // it stands alone; else it lies over the parent's layers
}

// Written is what Write has written, all of it durable and named by nobody yet.
type Written struct {
	Chunks   events.TableRef    // zero: no disk has changed
	Disks    []Layer            // as they were given
	Objects  []ledger.ObjectRef // for the segment that is to name them
	New      uint64             // chunks in packs of this job
	NewBytes int64              // ... their bytes
	Stored   int64              // ... sealed
	Known    uint64             // chunks in packs of earlier jobs
}

// writer is a Write at work.
type writer struct {
	v       *vault.Vault
	pages   *table.Pages // of all parents together
	job     id.Job
	domain  id.Domain
	scratch *spill.Log
	disks   []disk
	uses    *uses
	packs   []table.PackRef // of every piece, in the order they were met
	numbers map[table.PackRef]uint32
}

// disk is a Disk with its pieces.
type disk struct {
	Disk
	parent  *table.Map
	base    bool
	changed bool
	blocks  []int64 // of its pieces, in the scratch file
}

// needsTable: a first point has one even of an empty disk, so that a point
// always names what describes it.
func (d *disk) needsTable() bool { return d.changed || d.base }

// Write writes the tables that a point of these disks needs. scratch is used and
// keeps what was written to it.
func Write(ctx context.Context, v *vault.Vault, job id.Job, domain id.Domain, scratch *spill.Log, disks []Disk) (Written, error) {
	w := &writer{v: v, pages: table.NewPages(), job: job, domain: domain, scratch: scratch, uses: newUses(scratch), numbers: map[table.PackRef]uint32{}}
	out := Written{Disks: make([]Layer, len(disks))}
	tables := false
	for _, in := range disks {
		d, err := w.begin(ctx, in)
		if err == nil {
			err = w.gather(ctx, &d)
		}
		if err != nil {
			return out, err
		}
		w.disks = append(w.disks, d)
		tables = tables || d.needsTable()
	}
	if !tables {
		for i := range out.Disks {
			out.Disks[i].Base = w.disks[i].base
		}
		return out, nil
	}
	if err := w.uses.settle(len(w.packs)); err != nil {
		return out, fmt.Errorf("number the chunks: %w", err)
	}
	if err := w.writeChunks(ctx, &out); err != nil {
		return out, err
	}
	number, stop := w.uses.numbers()
	defer stop()
	for i := range w.disks {
		d := &w.disks[i]
		out.Disks[i].Base = d.base
		if !d.needsTable() {
			continue
		}
		ref, object, err := table.WriteExtents(ctx, v, job, domain, w.extents(d, number))
		if err != nil {
			return out, err
		}
		out.Disks[i].Table, out.Objects = ref, append(out.Objects, object)
	}
	return out, nil
}

// begin opens a disk's parent and decides whether its table is a base.
func (w *writer) begin(ctx context.Context, in Disk) (disk, error) {
	d := disk{Disk: in, base: true}
	if in.Parent == nil {
		return d, nil
	}
	var err error
	if d.parent, err = w.pages.OpenMap(ctx, w.v, *in.Parent); err != nil {
		return d, err
	}
	d.base = len(in.Parent.Extents) == 0 || d.parent.Size() != in.Size
	if len(in.Parent.Extents) < table.MaxLayers || d.base {
		return d, nil
	}
	for _, err := range d.overlay(ctx) {
		d.base = true // for it has changed
		return d, err
	}
	return d, nil
}

// gather writes the pieces of a disk's new table to the scratch file: of a base
// all that is not zero, of an overlay what differs from the parent.
func (w *writer) gather(ctx context.Context, d *disk) error {
	found := d.overlay(ctx)
	if d.base && d.parent != nil {
		found = table.MergeLayers(ctx, d.parent, d.Size, found)
	}
	var block []byte
	for p, err := range found {
		if err != nil {
			return err
		}
		if p.Zero && d.base {
			continue // what no layer covers is zero
		}
		d.changed = true
		if !p.Zero {
			if p.Domain != w.domain { // a table names one domain for all of its chunks
				return fmt.Errorf("piece at %d: its chunk is of domain %s, the tables are of %s: %w", p.Offset, p.Domain, w.domain, table.ErrRow)
			}
			if err := w.uses.add(p.Chunk, w.number(p.Pack)); err != nil {
				return err
			}
		}
		block = w.appendPiece(block, p)
		if len(block) >= pieceBlock {
			if block, err = d.keep(w.scratch, block); err != nil {
				return err
			}
		}
	}
	_, err := d.keep(w.scratch, block)
	return err
}

func (w *writer) number(p table.PackRef) uint32 {
	n, ok := w.numbers[p]
	if !ok {
		n = uint32(len(w.packs))
		w.numbers[p], w.packs = n, append(w.packs, p)
	}
	return n
}

// writeChunks writes the chunk table: the chunks in the order of their first use,
// and of the packs those that hold one of them.
func (w *writer) writeChunks(ctx context.Context, out *Written) error {
	var refs []table.PackRef
	at := make([]uint32, len(w.packs))
	for n, p := range w.packs {
		if w.uses.packs[n] {
			at[n] = uint32(len(refs))
			refs = append(refs, p)
		}
	}
	ref, object, err := table.WriteChunks(ctx, w.v, w.job, w.domain, refs, func(yield func(table.ChunkRow, error) bool) {
		use := uint64(0)
		for i := range w.disks {
			for p, err := range w.pieces(&w.disks[i]) {
				if err != nil {
					yield(table.ChunkRow{}, err)
					return
				}
				if p.Zero {
					continue
				}
				use++
				if !w.uses.first.has(use - 1) {
					continue
				}
				r := table.ChunkRow{Chunk: p.Chunk, Pack: at[p.pack], Offset: p.PackOffset, Stored: p.Stored, Raw: p.Raw, New: w.packs[p.pack].Job == w.job}
				out.count(r)
				if !yield(r, nil) {
					return
				}
			}
		}
	})
	out.Chunks, out.Objects = ref, append(out.Objects, object)
	return err
}

func (o *Written) count(r table.ChunkRow) {
	if !r.New {
		o.Known++
		return
	}
	o.New++
	o.NewBytes += int64(r.Raw)
	o.Stored += int64(r.Stored)
}

func (w *writer) extents(d *disk, number func() (uint32, error)) iter.Seq2[table.ExtentRow, error] {
	return func(yield func(table.ExtentRow, error) bool) {
		for p, err := range w.pieces(d) {
			row := table.ExtentRow{Offset: p.Offset, Length: p.Length, Zero: p.Zero, ChunkOffset: p.ChunkOffset, ID: p.Chunk}
			if err == nil && !p.Zero {
				row.Chunk, err = number()
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}
