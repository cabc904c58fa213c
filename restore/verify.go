package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Verify follows every reference of every disk of a point: each range must be in
// a chunk whose pack is there, whole in length, and has that chunk in that place
// by its own footer. Of the chunks it reads and decodes o.ReadPercent. It needs
// PartMeta, and for reading PartData and PartIDs.
//
// It does not stop at damage. The error is nil when nothing is wrong, wraps
// vault.ErrDamaged when the report lists damage, and is anything else when the
// check could not be finished; the report then holds what was found until then.
func Verify(ctx context.Context, v *vault.Vault, point events.PointCommitted, o Options) (Report, error) {
	c := &check{
		v: v, point: point, o: o, footers: newFooters(v), damages: newDamages(), reader: newReader(v),
		maps: make([]func(context.Context) iter.Seq2[piece, error], len(point.Disks)),
		upTo: make([]int64, len(point.Disks)),
	}
	c.report = Report{Point: point.Point, Disks: len(point.Disks)}
	for _, d := range point.Disks {
		c.report.DiskBytes += d.Size
	}
	err := c.first(ctx)
	if err == nil && c.damages.count() > 0 {
		err = c.second(ctx)
	}
	c.report.Packs = len(c.footers.met)
	c.damages.list(&c.report)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return c.report, fmt.Errorf("verify point %s: %w", point.Point, err)
	}
	return c.report, c.report.Err()
}

// check is one call of Verify.
type check struct {
	v       *vault.Vault
	point   events.PointCommitted
	o       Options
	footers *footers // the planner's alone
	reader  *reader
	maps    []func(context.Context) iter.Seq2[piece, error] // nil: could not be opened
	upTo    []int64                                         // how far each map could be read

	mu      sync.Mutex // guards damages and report while workers run
	damages *damages
	report  Report
}

// first walks all disks, looks every chunk up and reads the sample.
func (c *check) first(ctx context.Context) error {
	t := tally{reader: c.reader, tell: c.o.Progress, now: Progress{Size: c.report.DiskBytes}}
	batches := make(chan batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(batches)
		pl := planner{out: batches, window: window(c.v.Config.CellSize)}
		for n := range c.point.Disks {
			if err := c.disk(ctx, n, &pl); err != nil {
				return err
			}
			if err := pl.flush(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	s := sink{use: c.good, lost: c.lost}
	for range c.o.workers() {
		worker := c.reader.worker()
		g.Go(func() error {
			return drain(ctx, batches, &t, func(b batch) error { return worker.batch(ctx, b.pieces, s) })
		})
	}
	return g.Wait()
}

// disk walks one disk. A map that cannot be read is damage of the rest of it.
func (c *check) disk(ctx context.Context, n int, pl *planner) error {
	d := c.point.Disks[n]
	pieces, err := disk(ctx, c.v, d, n)
	if err == nil {
		c.maps[n] = pieces
		for p, pieceErr := range pieces(ctx) {
			if pieceErr != nil {
				err = pieceErr
				break
			}
			wanted, stop := c.piece(ctx, p)
			if stop != nil {
				return stop
			}
			if err := pl.add(ctx, p, wanted); err != nil {
				return err
			}
			c.upTo[n] = p.offset + p.length
		}
	}
	if err == nil {
		return c.sizes(ctx, d)
	}
	if stops(ctx, err) || !blamed(err) {
		return fmt.Errorf("disk %s: %w", d.Key, err)
	}
	return c.tables(ctx, n, err)
}

// sizes finds tables with bytes behind their end: no reading is hurt by them, but
// the object is not what was written.
func (c *check) sizes(ctx context.Context, d events.PointDisk) error {
	for _, ref := range slices.Concat(d.Extents, d.Chunks) {
		if ref.Name.IsZero() {
			continue // a layer of zeros
		}
		name := table.ObjectName(ref)
		e, err := store.Stat(ctx, c.v.Store, name)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		if e.Size != ref.Size {
			c.blame(name, damaged(name, "it has %d bytes, the ledger says %d", e.Size, ref.Size))
		}
	}
	return nil
}

// piece looks a piece's chunk up and says whether it is to be read.
func (c *check) piece(ctx context.Context, p piece) (wanted bool, stop error) {
	if p.zero {
		return false, nil
	}
	first, chunkErr, packErr, stop := c.footers.look(ctx, p.place)
	if stop != nil {
		return false, stop
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.DataBytes += p.length
	if first && chunkErr == nil {
		c.report.Chunks++
	}
	if chunkErr != nil {
		c.damages.chunk(p.place, chunkErr)
	}
	if packErr != nil {
		c.damages.pack(p.key(), c.footers.met[p.key()].size, packErr)
	}
	return first && chunkErr == nil && c.sampled(p), nil
}

// sampled picks chunks by their ids, which are as good as random.
func (c *check) sampled(p piece) bool {
	percent := uint64(max(0, c.o.ReadPercent))
	word := (binary.LittleEndian.Uint64(p.chunk[:]) ^ c.o.Seed) * 0x9e3779b97f4a7c15
	share, _ := bits.Mul64(word, 100)
	return share < percent
}

// good is told of each chunk that was read and is what it should be.
func (c *check) good(p piece, _ []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.ReadCount++
	c.report.ReadBytes += p.raw
	return nil
}

// lost is told of each chunk that cannot be read.
func (c *check) lost(ps []piece, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range ps {
		// A missing pack is one damage and not one for each of its chunks.
		if whole := c.damages.packs[p.key()]; whole == nil || !errors.Is(err, errMissing) {
			c.damages.chunk(p.place, asDamage(err))
		}
	}
	return nil
}

// blamed reports whether an error is the table's own. A format of the future
// counts: the vault it lies in has ours, and the format is not authenticated.
func blamed(err error) bool {
	return errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrNewer)
}

// tables finds out which of a disk's tables are to blame for cause. If each is
// whole by itself, they do not fit together, and the newest is named.
func (c *check) tables(ctx context.Context, n int, cause error) error {
	d := c.point.Disks[n]
	rest := Range{Disk: d.Disk, Key: d.Key, Offset: c.upTo[n], Length: d.Size - c.upTo[n]}
	found := false
	blame := func(ref events.TableRef, err error) error {
		if err == nil {
			return nil
		}
		if err = lostTable(err); stops(ctx, err) || !blamed(err) {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		found = true
		c.blame(table.ObjectName(ref), err, rest)
		return nil
	}
	for _, ref := range d.Extents {
		if err := blame(ref, readExtents(ctx, c.v, ref)); err != nil {
			return err
		}
	}
	for _, ref := range d.Chunks {
		if ref.Name.IsZero() {
			continue // a layer of zeros
		}
		if err := blame(ref, readChunks(ctx, c.v, ref)); err != nil {
			return err
		}
	}
	if !found {
		object := "map of disk " + d.Key
		if len(d.Extents) > 0 {
			object = table.ObjectName(d.Extents[0])
		}
		c.blame(object, cause, rest)
	}
	return nil
}

func (c *check) blame(object string, cause error, ranges ...Range) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.damages.room() {
		c.damages.tables = append(c.damages.tables, &Damage{Object: object, Cause: asDamage(cause), Ranges: ranges})
	}
}

func readExtents(ctx context.Context, v *vault.Vault, ref events.TableRef) error {
	t, err := table.OpenExtents(ctx, v, ref)
	if err != nil {
		return err
	}
	for _, err := range t.Range(ctx, 0, table.MaxDisk) {
		if err != nil {
			return err
		}
	}
	return nil
}

func readChunks(ctx context.Context, v *vault.Vault, ref events.TableRef) error {
	t, err := table.OpenChunks(ctx, v, ref)
	if err != nil {
		return err
	}
	for _, err := range t.All(ctx) {
		if err != nil {
			return err
		}
	}
	return nil
}

// second walks the disks once more to say which ranges the damage hits: a piece
// that was walked before its chunk was found bad would be missing otherwise.
func (c *check) second(ctx context.Context) error {
	for n, pieces := range c.maps {
		if pieces == nil {
			continue
		}
		for p, err := range pieces(ctx) {
			if err != nil || p.offset >= c.upTo[n] {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				break // told in the first walk
			}
			if !p.zero {
				c.damages.hit(p, c.point.Disks[n])
			}
		}
	}
	return nil
}
