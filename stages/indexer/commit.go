package indexer

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
)

// commit makes a guest's recovery point. The caller has seen to it that every
// parcel is here, what was read twice was equal, and snapshot has confirmed.
func (x *indexer) commit(ctx context.Context, n uint32) error {
	defer x.trust.Done()
	if err := x.checkPacks(ctx, n); err != nil {
		return x.park(n, err)
	}
	c := &layer{indexer: x, guest: n, numbers: map[id.Chunk]uint32{}, packs: map[id.Object]uint32{}}
	if err := c.write(ctx); err != nil {
		return x.park(n, flow.ParentFault("write the tables of", x.work.Guests[n].Name, n, err))
	}
	packs, in, done := x.packFacts()
	point, more := c.facts()
	// The commit point. Before this put the guest has no point and the tables
	// are objects nobody names; after it the point is there for good, and a
	// successor of this process finds it in the ledger. It is signed before
	// anyone is told of it and before snapshot may let go.
	if err := x.store(ctx, append(packs, more...), append(in, c.objects...)); err != nil {
		if errors.Is(err, trust.ErrGone) { // by somebody who was faster
			err = lostPack(err)
		}
		return x.park(n, err)
	}
	done()
	x.guests[n].point = point
	for _, o := range c.objects {
		x.tableBytes += o.Size
	}
	if err := x.sign(ctx); err != nil {
		return err
	}
	return x.tell(ctx)
}

// park ends a guest's part in the job if that is what err says, and else returns it.
func (x *indexer) park(n uint32, err error) error {
	if f := flow.AsFault(err, flow.Indexer); f.Class == flow.Park {
		x.fail(n, f)
		return nil
	}
	return err
}

// checkPacks makes sure that the packs the point will refer to are there, long
// enough for the last chunk that was taken for known in them, and neither retired
// nor withdrawn since the job began; until the commit, the guard sees to it that
// they stay so. One that has gone is no reason to commit a point that cannot be
// restored. What only the parent's layers name counts as well, unless the job
// was told to distrust it and has stored it again.
func (x *indexer) checkPacks(ctx context.Context, n uint32) error {
	x.trust.Need()
	ends := map[uint32]int64{}
	for _, d := range x.work.DisksOf(n) {
		for _, r := range x.disks[d].rows {
			if r.chunk != noChunk {
				at := &x.places[r.chunk]
				ends[at.pack] = max(ends[at.pack], int64(at.offset)+int64(at.stored))
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(ends)) {
		p := &x.packs[k]
		key := catalog.PackKey{Job: p.job, Pack: p.Name}
		if p.isNew {
			if err := x.trust.Own(key); err != nil {
				return lostPack(err)
			}
		} else if err := x.trust.Check(ctx, key, ends[k]); err != nil {
			return lostPack(err)
		}
	}
	for _, d := range x.work.DisksOf(n) {
		parent := x.work.Disks[d].Parent
		if parent == nil {
			continue
		}
		m, err := table.OpenMap(ctx, x.vault, *parent)
		if err != nil {
			return flow.ParentFault("open the tables of", x.work.Guests[n].Name, n, err)
		}
		for p := range m.Packs() {
			if x.distrusted[flow.PackID(p)] {
				continue
			}
			if err := x.trust.Check(ctx, catalog.PackKey{Job: p.Job, Pack: p.Name}, 1); err != nil {
				return lostPack(err)
			}
		}
	}
	return nil
}

// lostPack is the fault of a guest that needs a pack which went while the job ran.
func lostPack(err error) error {
	if !errors.Is(err, trust.ErrGone) {
		return flow.VaultFault("check packs of", "the point", err) // they may well be there
	}
	f := &flow.Fault{
		Class: flow.Park, Code: "damaged", Stage: flow.Indexer, Op: "check packs of", Object: "the point", Cause: err.Error(), Err: err,
		Remedy: "run the job again, which stores what the pack had once more; run millrace verify to see which points need it",
	}
	if errors.Is(err, trust.ErrRetired) {
		f.Code, f.Remedy = "pack-retired", "run the job again, which stores what the pack had once more"
	}
	return f
}

// layer is what one guest's commit adds: a chunk table and an extent table per
// disk. A disk that has not changed keeps its parent's layers and adds none; a
// changed one that has as many layers as it may gets a new base. So does one whose
// size has changed: what an old layer has beyond the end of a disk that shrank
// must not come back when the disk grows again.
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
		ld, err := c.begin(ctx, d)
		if err != nil {
			return err
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

// begin opens a disk's parent and decides whether its table is a base.
func (c *layer) begin(ctx context.Context, d uint32) (layerDisk, error) {
	ld := layerDisk{number: d, base: true}
	p := c.work.Disks[d].Parent
	if p == nil {
		return ld, nil
	}
	var err error
	if ld.parent, err = table.OpenMap(ctx, c.vault, *p); err != nil {
		return ld, err
	}
	ld.base = len(p.Extents) == 0 || ld.parent.Size() != c.work.Disks[d].Info.VirtualSize
	if len(p.Extents) < table.MaxLayers || ld.base {
		return ld, nil
	}
	for _, err := range c.overlay(ctx, &ld) {
		ld.base = true // for it has changed
		return ld, err
	}
	return ld, nil
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

// overlay lists what the job found that differs from the parent, in order: chunks,
// and zeros where the parent has data. Which zeros these are follows from the two
// disks alone and not from how this one was cut into parcels.
func (c *layer) overlay(ctx context.Context, ld *layerDisk) func(func(table.MapPiece, error) bool) {
	d := &c.indexer.disks[ld.number]
	slices.SortFunc(d.parcels, func(a, b parcel) int { return cmp.Compare(a.number, b.number) })
	parcel, size := c.work.ParcelSize, c.work.Disks[ld.number].Info.VirtualSize
	return func(yield func(table.MapPiece, error) bool) {
		var gap struct{ from, to int64 } // zero, and not yet looked up in the parent
		zero := func(from, to int64) bool {
			if from == gap.to {
				gap.to = to
				return true
			}
			more := c.zeros(ctx, ld.parent, gap.from, gap.to, yield)
			gap.from, gap.to = from, to
			return more
		}
		at := 0
		for k := range c.work.Parcels(int(ld.number)) {
			if !d.has(k) && !zero(int64(k)*parcel, min(int64(k+1)*parcel, size)) {
				return
			}
			if at == len(d.parcels) || d.parcels[at].number != k {
				continue
			}
			for _, r := range d.rows[d.parcels[at].from:d.parcels[at].to] {
				end := r.offset + int64(r.length)
				if r.chunk == noChunk && !zero(r.offset, end) {
					return
				}
				if r.chunk != noChunk && (!zero(end, end) || !yield(c.piece(r), nil)) {
					return
				}
			}
			at++
		}
		zero(-1, -1)
	}
}

// zeros yields a zero piece for every range in which the parent has data.
func (c *layer) zeros(ctx context.Context, m *table.Map, from, to int64, yield func(table.MapPiece, error) bool) bool {
	if m == nil || from >= to {
		return true
	}
	var run table.MapPiece // not yet yielded
	for p, err := range m.Range(ctx, from, min(to, m.Size())) {
		switch {
		case err != nil:
			yield(table.MapPiece{}, err)
			return false
		case p.Zero:
		case run.Length > 0 && run.Offset+run.Length == p.Offset:
			run.Length += p.Length
		case run.Length > 0 && !yield(run, nil):
			return false
		default:
			run = table.MapPiece{Offset: p.Offset, Length: p.Length, Zero: true}
		}
	}
	return run.Length == 0 || yield(run, nil)
}

// piece is a row that is a chunk, with its place.
func (c *layer) piece(r row) table.MapPiece {
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
