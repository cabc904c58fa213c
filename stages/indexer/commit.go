package indexer

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// commit makes a guest's recovery point. The caller has seen to it that every
// parcel is here, what was read twice was equal, and snapshot has confirmed.
func (x *indexer) commit(ctx context.Context, n uint32) error {
	if err := x.checkPacks(ctx, n); err != nil {
		return err
	}
	if x.guests[n].fault != nil {
		return nil
	}
	c := &layer{indexer: x, guest: n, numbers: map[id.Chunk]uint32{}, packs: map[id.Object]uint32{}}
	if err := c.write(ctx); err != nil {
		return flow.VaultFault("write the tables of", x.work.Guests[n].Name, err)
	}
	packs, in, done := x.packFacts()
	point, more := c.facts()
	// The commit point. Before this put the guest has no point and the tables
	// are objects nobody names; after it the point is there for good, and a
	// successor of this process finds it in the ledger.
	if err := x.append(ctx, append(packs, more...), append(in, c.objects...)); err != nil {
		return err
	}
	done()
	x.guests[n].point = point
	for _, o := range c.objects {
		x.tableBytes += o.Size
	}
	signed, err := x.ledger.Checkpoint(ctx)
	if err != nil {
		return flow.VaultFault("sign the ledger of", x.work.Vault, err)
	}
	x.signed = signed
	return nil
}

// checkPacks makes sure that the packs a point refers to and that this job did
// not write are still there. One that is gone is no reason to commit a point
// that cannot be restored.
func (x *indexer) checkPacks(ctx context.Context, n uint32) error {
	for _, d := range x.work.DisksOf(n) {
		for _, r := range x.disks[d].rows {
			if r.chunk == noChunk {
				continue
			}
			p := &x.packs[x.places[r.chunk].pack]
			if p.isNew || p.checked {
				continue
			}
			name := vault.PackName(p.job, p.Name)
			e, err := store.Stat(ctx, x.vault.Store, name)
			if err == nil && e.Size < int64(x.places[r.chunk].offset)+int64(x.places[r.chunk].stored) {
				err = fmt.Errorf("%d bytes are too few: %w", e.Size, vault.ErrDamaged)
			}
			if err != nil {
				x.fail(n, &flow.Fault{
					Class: flow.Park, Code: "damaged", Stage: flow.Indexer, Op: "check pack", Object: name, Cause: err.Error(), Err: err,
					Remedy: "run millrace verify; delete the chunk index in the state directory and run the job again with --scan full",
				})
				return nil
			}
			p.checked = true
		}
	}
	return nil
}

// layer is what one guest's commit adds: a chunk table and an extent table per
// disk. A disk that has not changed keeps its parent's layers and adds none; one
// that has as many layers as it may gets a new base.
type layer struct {
	*indexer
	guest   uint32
	numbers map[id.Chunk]uint32 // row numbers
	rows    []table.ChunkRow
	refs    []table.PackRef
	packs   map[id.Object]uint32 // into refs
	disks   []layerDisk
	chunks  events.TableRef
	objects []ledger.ObjectRef
}

type layerDisk struct {
	number  uint32
	parent  *table.Map
	base    bool
	changed bool
	table   events.TableRef
}

func (c *layer) write(ctx context.Context) error {
	for _, d := range c.work.DisksOf(c.guest) {
		ld := layerDisk{number: d, base: true}
		if p := c.work.Disks[d].Parent; p != nil {
			m, err := table.OpenMap(ctx, c.vault, *p)
			if err != nil {
				return err
			}
			ld.parent, ld.base = m, len(p.Extents) >= table.MaxLayers || len(p.Extents) == 0
		}
		// First pass: number the chunks in the order in which the disk uses
		// them. The second pass below sees the same pieces.
		for p, err := range c.pieces(ctx, &ld) {
			if err != nil {
				return err
			}
			ld.changed = true
			if !p.Zero {
				c.number(p)
			}
		}
		c.disks = append(c.disks, ld)
	}
	if !slices.ContainsFunc(c.disks, c.needsTable) {
		return nil
	}
	ref, object, err := table.WriteChunks(ctx, c.vault, c.w.Config.Job, c.work.Domain, c.refs, func(yield func(table.ChunkRow, error) bool) {
		for _, r := range c.rows {
			if !yield(r, nil) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	c.chunks, c.objects = ref, append(c.objects, object)
	for i := range c.disks {
		if !c.needsTable(c.disks[i]) {
			continue
		}
		ref, object, err := table.WriteExtents(ctx, c.vault, c.w.Config.Job, c.work.Domain, c.extents(ctx, &c.disks[i]))
		if err != nil {
			return err
		}
		c.disks[i].table, c.objects = ref, append(c.objects, object)
	}
	return nil
}

// needsTable: a first point has one even of an empty disk, so that a point
// always names what describes it.
func (c *layer) needsTable(d layerDisk) bool { return d.changed || d.base }

func (c *layer) number(p table.MapPiece) {
	if _, ok := c.numbers[p.Chunk]; ok {
		return
	}
	at, ok := c.packs[p.Pack.Name]
	if !ok {
		at = uint32(len(c.refs))
		c.packs[p.Pack.Name] = at
		c.refs = append(c.refs, p.Pack)
	}
	c.numbers[p.Chunk] = uint32(len(c.rows))
	c.rows = append(c.rows, table.ChunkRow{Chunk: p.Chunk, Pack: at, Offset: p.PackOffset, Stored: p.Stored, Raw: p.Raw, New: p.Pack.Job == c.w.Config.Job})
}

func (c *layer) extents(ctx context.Context, d *layerDisk) func(func(table.ExtentRow, error) bool) {
	return func(yield func(table.ExtentRow, error) bool) {
		for p, err := range c.pieces(ctx, d) {
			row := table.ExtentRow{Offset: p.Offset, Length: p.Length, Zero: p.Zero, Chunk: c.numbers[p.Chunk], ChunkOffset: p.ChunkOffset, ID: p.Chunk}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

// pieces lists what the disk's new table is to hold, in order: of a base all
// that is not zero, of an overlay what differs from the parent.
func (c *layer) pieces(ctx context.Context, d *layerDisk) func(func(table.MapPiece, error) bool) {
	found := c.overlay(ctx, d)
	if d.base && d.parent != nil {
		found = table.MergeLayers(ctx, d.parent, c.work.Disks[d.number].Info.VirtualSize, found)
	}
	return func(yield func(table.MapPiece, error) bool) {
		for p, err := range found {
			if err == nil && p.Zero && d.base {
				continue // what no layer covers is zero
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

// overlay lists what the job found: the rows of the parcels that came, and
// zeros where the plan had none but the parent has data.
func (c *layer) overlay(ctx context.Context, ld *layerDisk) func(func(table.MapPiece, error) bool) {
	d := &c.indexer.disks[ld.number]
	slices.SortFunc(d.parcels, func(a, b parcel) int { return int(a.number) - int(b.number) })
	size := c.work.ParcelSize
	return func(yield func(table.MapPiece, error) bool) {
		at := 0
		holes := func(from, to uint32) bool {
			return ld.parent == nil || c.zeros(ctx, ld.parent, int64(from)*size, int64(to)*size, yield)
		}
		hole := uint32(0)
		for k := range c.work.Parcels(int(ld.number)) {
			if !d.has(k) {
				continue
			}
			if hole < k && !holes(hole, k) {
				return
			}
			hole = k + 1
			if at < len(d.parcels) && d.parcels[at].number == k {
				for _, r := range d.rows[d.parcels[at].from:d.parcels[at].to] {
					if !yield(c.piece(r), nil) {
						return
					}
				}
				at++
			}
		}
		holes(hole, c.work.Parcels(int(ld.number)))
	}
}

// zeros yields a zero piece for every range in which the parent has data.
func (c *layer) zeros(ctx context.Context, m *table.Map, from, to int64, yield func(table.MapPiece, error) bool) bool {
	if to = min(to, m.Size()); from >= to {
		return true
	}
	for p, err := range m.Range(ctx, from, to) {
		if err == nil && p.Zero {
			continue
		}
		if !yield(table.MapPiece{Offset: p.Offset, Length: p.Length, Zero: true}, err) || err != nil {
			return false
		}
	}
	return true
}

func (c *layer) piece(r row) table.MapPiece {
	if r.chunk == noChunk {
		return table.MapPiece{Offset: r.offset, Length: int64(r.length), Zero: true}
	}
	p := &c.places[r.chunk]
	k := &c.indexer.packs[p.pack]
	return table.MapPiece{
		Offset: r.offset, Length: int64(r.length), Chunk: p.chunk, Domain: c.work.Domain,
		Pack: table.PackRef{Job: k.job, Name: k.Name}, PackOffset: p.offset, Stored: p.stored, Raw: p.raw,
	}
}

// facts returns the point's id and all that is said of it, in order.
func (c *layer) facts() (id.Point, []events.Fact) {
	work, g := c.work, c.work.Guests[c.guest]
	point := events.PointCommitted{
		Point: id.NewPoint(c.w.Config.Job, g.ID), Guest: g.ID, GuestName: g.Name, Driver: g.Driver, Source: g.Source, Set: work.Set,
		Scan: "full", ScanReason: g.ScanReason, Parent: g.Parent, Config: g.Config, Unprotected: g.Unprotected,
	}
	for _, r := range c.guests[c.guest].facts {
		if f, ok := r.Fact.(events.SnapshotTaken); ok {
			point.Time, point.Consistency = f.At, f.Consistency
		}
	}
	var out, sealed []events.Fact
	if !c.chunks.Name.IsZero() {
		stored := events.ChunksStored{Table: c.chunks, Domain: work.Domain}
		for _, r := range c.rows {
			if r.New {
				stored.New++
				stored.NewBytes += int64(r.Raw)
				stored.StoredBytes += int64(r.Stored)
			} else {
				stored.Known++
			}
		}
		out = append(out, stored)
	}
	for _, ld := range c.disks {
		d, info := &c.indexer.disks[ld.number], work.Disks[ld.number].Info
		disk := events.PointDisk{
			Disk: info.Disk, Key: info.Key, Format: info.Format, Variant: info.Variant, Size: info.VirtualSize, Sector: info.SectorSize,
			PhysicalSector: info.PhysicalSector, BlockSize: info.BlockSize, DiskID: info.DiskID,
		}
		if !ld.base {
			disk.Extents, disk.Chunks = work.Disks[ld.number].Parent.Extents, work.Disks[ld.number].Parent.Chunks
		}
		if !ld.table.Name.IsZero() {
			out = append(out, events.ExtentsMapped{Guest: g.ID, Disk: info.Disk, Table: ld.table, Chunks: c.chunks, Base: ld.base})
			disk.Extents = append([]events.TableRef{ld.table}, disk.Extents...)
			disk.Chunks = append([]events.TableRef{c.chunks}, disk.Chunks...)
		}
		disk.Root = disk.Extents[0].Root
		point.Disks = append(point.Disks, disk)
		point.DiskBytes += info.VirtualSize
		point.ReadBytes += d.read
		point.NewBytes += d.fresh
		point.StoredBytes += d.stored
		sealed = append(sealed, events.DiskSealed{
			Guest: g.ID, Disk: info.Disk, Number: ld.number, Size: info.VirtualSize, ZeroBytes: d.zero, UnchangedBytes: d.unchanged,
			KnownBytes: d.known, NewBytes: d.fresh, StoredBytes: d.stored, ReadBytes: d.read, NewChunks: d.newChunks,
			KnownChunks: d.knownChunks, Parcels: d.plan.Parcels, Reread: d.reread, Root: disk.Root,
		})
	}
	return point.Point, append(append(out, sealed...), point)
}
