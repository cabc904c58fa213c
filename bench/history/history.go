package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Options say how the past was. Zero values are replaced.
type Options struct {
	Guests    int   // 5
	DiskSize  int64 // of each guest's one disk, whole chunks; 4 MiB
	Changes   int   // chunks that a point changes; 3
	Start     time.Time
	Snapshots bool // whether the jobs leave snapshots of the catalog
	Hashes    int  // a job in so many says StateHashed; 16
}

const chunkSize = 64 << 10

// Vault is a vault with a past.
type Vault struct {
	*vault.Vault
	Ledger *ledger.Ledger
	Points []events.PointCommitted
	o      Options
	disks  []disk
	state  *catalog.State
	codec  vault.Codec
	ids    *chunk.IDs
	now    time.Time
}

// disk is a guest's disk: which content each chunk has now, where contents lie, and
// the layers of its newest point.
type disk struct {
	guest   id.Guest
	info    events.DiskInfo
	content []uint64 // 0: zeros
	places  map[uint64]place
	last    events.PointDisk
	parent  id.Point
	random  *rand.Rand
}

type place struct {
	pack table.PackRef
	row  table.ChunkRow
}

// New begins the past of an empty vault, whose ledger is l.
func New(ctx context.Context, v *vault.Vault, o Options) (*Vault, error) {
	if o.Guests == 0 {
		o.Guests = 5
	}
	if o.DiskSize == 0 {
		o.DiskSize = 4 << 20
	}
	if o.Changes == 0 {
		o.Changes = 3
	}
	if o.Hashes == 0 {
		o.Hashes = 16
	}
	if o.Start.IsZero() {
		o.Start = time.Date(2024, 1, 1, 1, 0, 0, 0, time.UTC)
	}
	h := &Vault{Vault: v, o: o, state: catalog.New(), now: o.Start}
	var err error
	if h.Ledger, err = ledger.Open(ctx, v, ledger.Options{Now: func() time.Time { return h.now }}); err != nil {
		return nil, err
	}
	if h.codec, err = vault.NewCodec("lz4"); err != nil {
		return nil, err
	}
	key, err := v.Keys.IDKey(v.Config.DefaultDomain)
	if err != nil {
		return nil, err
	}
	h.ids = chunk.NewIDs(key)
	for n := range o.Guests {
		g := id.NewGuest(v.ID, fmt.Sprintf("/srv/guests/guest-%d", n))
		h.disks = append(h.disks, disk{guest: g, content: make([]uint64, o.DiskSize/chunkSize), places: map[uint64]place{},
			random: rand.New(rand.NewPCG(uint64(n), 7)), info: events.DiskInfo{
				Disk: id.NewDisk(g, "disk.raw"), Key: "disk.raw", Path: fmt.Sprintf("/srv/guests/guest-%d/disk.raw", n), Format: "raw", Variant: "fixed",
				VirtualSize: o.DiskSize, SectorSize: 512, PhysicalSector: 4096,
			}})
	}
	_, err = h.Ledger.Append(ctx, id.Job{}, []events.Fact{events.VaultCreated{Vault: v.ID, Version: "history", Format: 1, CellSize: v.Config.CellSize, BlockSize: v.Config.BlockSize}}, nil, nil)
	return h, err
}

// Make runs jobs, each of one guest and an hour after the one before.
func (h *Vault) Make(ctx context.Context, jobs int) error {
	for range jobs {
		if err := h.job(ctx); err != nil {
			return fmt.Errorf("job %d: %w", len(h.Points), err)
		}
		h.now = h.now.Add(time.Hour)
	}
	return nil
}

// Disk is what is on the disk of guest n now.
func (h *Vault) Disk(n int) []byte {
	var b []byte
	for _, c := range h.disks[n%len(h.disks)].content {
		b = append(b, contentOf(c)...)
	}
	return b
}

// contentOf is the chunk of a content: half of it random.
func contentOf(c uint64) []byte {
	b := make([]byte, chunkSize)
	if c == 0 {
		return b
	}
	r := rand.New(rand.NewPCG(c, 0))
	for i := range chunkSize / 2 {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (h *Vault) job(ctx context.Context) error {
	number := len(h.Points)
	n := number % len(h.disks)
	d := &h.disks[n]
	job, name := id.NewJob(), fmt.Sprintf("guest-%d", n)
	_, size, _ := h.Ledger.Head()
	say := func(in []ledger.ObjectRef, facts ...events.Fact) error {
		_, err := h.Ledger.Append(ctx, job, facts, in, nil)
		h.now = h.now.Add(time.Second)
		return err
	}
	started := events.JobStarted{Verb: "backup", Host: "host", PID: 1000 + number, Version: "history", OS: "linux/amd64", CPUs: 2, By: "root",
		Sources: []string{"/srv/guests/" + name}, Settings: map[string]string{"codec": "auto", "scan": "auto", "freeze": "prefer", "transport": "claim", "parallel": "seal=2"}, Size: size}
	config := []byte(fmt.Sprintf("<domain><name>%s</name>%s</domain>", name, slices.Repeat([]byte("<device/>"), 200)))
	inspected := events.GuestInspected{Guest: d.guest, Name: name, Driver: "folder", Source: "/srv/guests/" + name, Config: config, Disks: []events.DiskInfo{d.info}}
	taken := events.SnapshotTaken{Guest: d.guest, At: events.At(h.now), Consistency: "offline", Method: "lease", Policy: "prefer", Disks: []events.SnapshotDisk{{Disk: d.info.Disk}}}
	resolved := events.ChangesResolved{Guest: d.guest, Disk: d.info.Disk, Mode: "full", Source: "extents", Parent: d.parent, Parcels: 1, ReadBytes: d.info.VirtualSize, DiskBytes: d.info.VirtualSize}
	var workers, stopped []events.Fact
	for n, stage := range []string{"snapshot", "reader", "chunker", "delta", "seal", "seal", "uploader", "indexer"} {
		workers = append(workers, events.StageStarted{Stage: stage, Worker: uint32(n), PID: 2000 + n, Host: "host", Transport: "claim"})
		stopped = append(stopped, events.StageStopped{Stage: stage, Worker: uint32(n), PID: 2000 + n, Exit: "ok", BusyNS: 1e9, InParcels: 1, OutParcels: 1})
	}
	if err := firstError(func() error { return say(nil, started) }, func() error { return say(nil, workers...) },
		func() error { return say(nil, inspected) }, func() error { return say(nil, taken, resolved) }); err != nil {
		return err
	}
	pack, fresh, err := h.pack(ctx, job, d)
	if err != nil {
		return err
	}
	objects := []ledger.ObjectRef{{Name: vault.PackName(job, pack.Name), Sum: events.Hash(pack.Name), Size: pack.Size}}
	if err := say(objects, events.PackStored{Pack: pack.Name, Domain: pack.Domain, DataKey: pack.DataKey, Size: pack.Size, Chunks: uint32(len(pack.Entries)), RawBytes: int64(len(pack.Entries)) * chunkSize}); err != nil {
		return err
	}
	point := events.PointCommitted{Point: id.NewPoint(job, d.guest), Guest: d.guest, GuestName: name, Driver: "folder", Source: inspected.Source, Time: taken.At,
		Consistency: "offline", Scan: "full", ScanReason: "the source does not track changes", Parent: d.parent, Config: config,
		DiskBytes: d.info.VirtualSize, ReadBytes: d.info.VirtualSize, NewBytes: int64(len(fresh)) * chunkSize, StoredBytes: pack.Size}
	tables, in, err := h.tables(ctx, job, d, fresh, &point)
	if err != nil {
		return err
	}
	sealed := events.DiskSealed{Guest: d.guest, Disk: d.info.Disk, Size: d.info.VirtualSize, NewBytes: point.NewBytes, StoredBytes: pack.Size, ReadBytes: point.ReadBytes, Parcels: 1, Root: d.last.Root}
	if err := say(in, append(tables, sealed, point)...); err != nil {
		return err
	}
	if _, err := h.Ledger.Checkpoint(ctx); err != nil {
		return err
	}
	if err := say(nil, events.SnapshotReleased{Guest: d.guest, Verdict: "unchanged"}); err != nil {
		return err
	}
	d.parent = point.Point
	h.Points = append(h.Points, point)
	return h.finish(ctx, say, append(stopped, events.JobFinished{Outcome: "done", Guests: []events.GuestOutcome{{Guest: d.guest, Name: name, Outcome: "done", Point: point.Point}},
		DiskBytes: point.DiskBytes, NewBytes: point.NewBytes, StoredBytes: point.StoredBytes, Settings: started.Settings}))
}

func firstError(all ...func() error) error {
	for _, f := range all {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// finish signs, and leaves a snapshot when it is time.
func (h *Vault) finish(ctx context.Context, say func([]ledger.ObjectRef, ...events.Fact) error, last []events.Fact) error {
	if len(h.Points)%h.o.Hashes == 0 {
		if err := h.state.CatchUp(h.Ledger.Records(ctx, h.state.Next)); err != nil {
			return err
		}
		_, size, _ := h.Ledger.Head()
		last = append(last, h.state.Hashed(size))
	}
	if err := say(nil, last...); err != nil {
		return err
	}
	if _, err := h.Ledger.Checkpoint(ctx); err != nil {
		return err
	}
	if !h.o.Snapshots || len(h.Points)%h.o.Hashes != 0 {
		return nil
	}
	if err := h.state.CatchUp(h.Ledger.Records(ctx, h.state.Next)); err != nil {
		return err
	}
	return saved.Save(ctx, h.Vault, h.Ledger, h.state)
}

// pack changes the disk and stores what is new. The first time it is all of it.
func (h *Vault) pack(ctx context.Context, job id.Job, d *disk) (vault.PackInfo, []int, error) {
	domain := h.Config.DefaultDomain
	w, err := vault.NewPackWriter(ctx, h.Store, h.Keys, job, domain)
	if err != nil {
		return vault.PackInfo{}, nil, err
	}
	defer w.Abort()
	var fresh []int
	if d.parent.IsZero() {
		for n := range d.content {
			if n%4 != 3 { // a hole
				fresh = append(fresh, n)
			}
		}
	} else {
		for len(fresh) < h.o.Changes {
			if n := d.random.IntN(len(d.content)); !slices.Contains(fresh, n) {
				fresh = append(fresh, n)
			}
		}
		slices.Sort(fresh)
	}
	for _, n := range fresh {
		d.content[n] = 1 + d.random.Uint64()>>1
		b := contentOf(d.content[n])
		c := h.ids.ID(b)
		sealed, err := h.Keys.SealChunk(nil, domain, c, h.codec.Encode(nil, b))
		if err != nil {
			return vault.PackInfo{}, nil, err
		}
		if _, err := w.Add(vault.PackEntry{Chunk: c, GuestOffset: int64(n) * chunkSize, Raw: chunkSize}, vault.PackDisk{Guest: d.guest, Disk: d.info.Disk}, sealed); err != nil {
			return vault.PackInfo{}, nil, err
		}
	}
	info, err := w.Close(ctx)
	if err != nil {
		return vault.PackInfo{}, nil, err
	}
	for i, n := range fresh {
		e := info.Entries[i]
		d.places[d.content[n]] = place{table.PackRef{Job: job, Name: info.Name}, table.ChunkRow{Chunk: e.Chunk, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw, New: true}}
	}
	return info, fresh, nil
}

// tables writes the layer of a point: what is new, or all of the disk when there
// would be too many layers.
func (h *Vault) tables(ctx context.Context, job id.Job, d *disk, fresh []int, point *events.PointCommitted) ([]events.Fact, []ledger.ObjectRef, error) {
	base := len(d.last.Extents) == 0 || len(d.last.Extents) == table.MaxLayers
	if base {
		fresh = nil
		for n, c := range d.content {
			if c != 0 {
				fresh = append(fresh, n)
			}
		}
	}
	var packs []table.PackRef
	var rows []table.ChunkRow
	var extents []table.ExtentRow
	for i, n := range fresh {
		p := d.places[d.content[n]]
		at := slices.Index(packs, p.pack)
		if at < 0 {
			at = len(packs)
			packs = append(packs, p.pack)
		}
		p.row.Pack, p.row.New = uint32(at), p.pack.Job == job
		rows = append(rows, p.row)
		extents = append(extents, table.ExtentRow{Offset: int64(n) * chunkSize, Length: chunkSize, Chunk: uint32(i), ID: p.row.Chunk})
	}
	domain := h.Config.DefaultDomain
	chunks, in1, err := table.WriteChunks(ctx, h.Vault, job, domain, packs, each(rows))
	if err != nil {
		return nil, nil, err
	}
	cover, in2, err := table.WriteExtents(ctx, h.Vault, job, domain, each(extents))
	if err != nil {
		return nil, nil, err
	}
	last := events.PointDisk{Disk: d.info.Disk, Key: d.info.Key, Format: d.info.Format, Variant: d.info.Variant, Size: d.info.VirtualSize, Sector: d.info.SectorSize, PhysicalSector: d.info.PhysicalSector,
		Extents: []events.TableRef{cover}, Chunks: []events.TableRef{chunks}, Root: cover.Root}
	if !base {
		last.Extents, last.Chunks = append(last.Extents, d.last.Extents...), append(last.Chunks, d.last.Chunks...)
	}
	d.last = last
	point.Disks = []events.PointDisk{last}
	return []events.Fact{
		events.ChunksStored{Table: chunks, Domain: domain, New: uint64(len(rows))},
		events.ExtentsMapped{Guest: d.guest, Disk: d.info.Disk, Table: cover, Chunks: chunks, Base: base},
	}, []ledger.ObjectRef{in1, in2}, nil
}

func each[T any](all []T) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for _, x := range all {
			if !yield(x, nil) {
				return
			}
		}
	}
}
