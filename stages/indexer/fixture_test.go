package indexer

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/journal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// labCell is the cell size of the tests: small, so that small disks have many.
const labCell = 64 << 10

// lab is a vault with its ledger and what jobs before have stored in it, and
// stands for the stages before the indexer.
type lab struct {
	testing.TB
	v     *vault.Vault
	l     *ledger.Ledger
	cut   chunk.Cutter
	ids   *chunk.IDs
	bytes map[id.Chunk][]byte
	index memIndex
	guest id.Guest
}

type memIndex map[id.Chunk]chunkindex.Place

func (m memIndex) Find(c id.Chunk) (chunkindex.Place, bool) {
	p, ok := m[c]
	return p, ok
}

func (memIndex) TakeUp(bool) error { return nil }

// unsynced is the file system without its flushes, for which hundreds of small
// jobs would wait most of their time.
type unsynced struct{ dir.FS }

func (unsynced) SyncDir(string) error { return nil }

func (u unsynced) Create(name string) (dir.File, error) {
	f, err := u.FS.Create(name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ dir.File }

func (unsyncedFile) Sync() error { return nil }

type nobody struct{}

func (nobody) Publish(context.Context, []events.Record) error { return nil }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLab(t testing.TB) *lab {
	t.Helper()
	st, err := dir.OpenOn(unsynced{dir.OS()}, t.TempDir())
	must(t, err)
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: kdf})
	must(t, err)
	b := &lab{TB: t, v: v, guest: id.Guest{7}, bytes: map[id.Chunk][]byte{}, index: memIndex{}}
	b.l, err = ledger.Open(t.Context(), v, ledger.Options{Now: time.Now})
	must(t, err)
	cutKey, err := v.Keys.CutKey(v.Config.DefaultDomain)
	must(t, err)
	idKey, err := v.Keys.IDKey(v.Config.DefaultDomain)
	must(t, err)
	b.cut, err = chunk.New(chunk.Params{Name: chunk.Aligned, Min: 4 << 10, Normal: 8 << 10, Max: 32 << 10, Block: 4 << 10, ZeroRun: 8 << 10}, cutKey)
	must(t, err)
	b.ids = chunk.NewIDs(idKey)
	return b
}

// job is a backup of one guest on its way through the stages.
type job struct {
	*lab
	x      *indexer
	known  memIndex // where chunks lay when it began
	rnd    *rand.Rand
	images [][]byte
	sparse bool // cells of zeros are holes
	pack   flow.Pack
	room   uint32 // used of the pack
	placed map[id.Chunk]flow.Piece
}

// begin makes a job over images, one disk each. parent may be nil.
func (b *lab) begin(seed uint64, parcel int64, parent *events.PointCommitted, images ...[]byte) *job {
	b.Helper()
	work := flow.Work{
		Vault: "test", VaultID: b.v.ID, Domain: b.v.Config.DefaultDomain, ParcelSize: parcel, CellSize: labCell,
		Guests: []flow.WorkGuest{{ID: b.guest, Name: "g"}},
	}
	for n, im := range images {
		key := string(rune('a' + n))
		d := flow.WorkDisk{Info: events.DiskInfo{Disk: id.NewDisk(b.guest, key), Key: key, Path: "/" + key, VirtualSize: int64(len(im))}}
		if parent != nil {
			d.Parent = &parent.Disks[n]
			work.Guests[0].Parent = parent.Point
		}
		work.Disks = append(work.Disks, d)
	}
	j := &job{lab: b, images: images, sparse: true, rnd: rand.New(rand.NewPCG(seed, 1))}
	j.known = maps.Clone(b.index)
	j.x = j.indexer(filepath.Join(b.TempDir(), "journal"), flow.Config{Job: id.NewJob(), Stage: flow.Indexer, Work: work})
	return j
}

// indexer is a process of the stage, with nobody around it.
func (j *job) indexer(path string, cfg flow.Config) *indexer {
	j.Helper()
	w := &flow.Worker{Config: cfg}
	w.Config.Folder = filepath.Join(j.TempDir(), "job")
	must(j, os.MkdirAll(w.Config.Folder, 0o700))
	// Few in memory, so that the files of the index are used too.
	s, err := newState(&w.Config.Work, j.known, &arena.Recent{}, w.Config.Folder, 16)
	must(j, err)
	x := &indexer{state: s, w: w, vault: j.v, ledger: j.l, trust: trust.New(j.v.Store, w.Config.Work.Domain), live: nobody{}, blocks: sidecar.NewKeeper(&w.Config.Work, w.Config.Folder)}
	x.guard = ledger.Guard{Job: w.Config.Job, Check: x.trust.Heed}
	x.journal, err = journal.Open(path, x.replay)
	must(j, err)
	j.Cleanup(func() { _ = x.journal.Close(); _ = x.spool.Close() })
	return x
}

func (j *job) work() *flow.Work { return j.x.work }

// span is the range of a disk that a parcel covers.
func (j *job) span(disk int, n uint32) (from, to int64) {
	from = int64(n) * j.work().ParcelSize
	return from, min(from+j.work().ParcelSize, int64(len(j.images[disk])))
}

func (j *job) planned(disk int) (cells []byte, numbers []uint32) {
	cells = make([]byte, (j.work().Parcels(disk)+7)/8)
	for n := range j.work().Parcels(disk) {
		from, to := j.span(disk, n)
		if j.sparse && isZero(j.images[disk][from:to]) {
			continue
		}
		cells[n/8] |= 1 << (n % 8)
		numbers = append(numbers, n)
	}
	return cells, numbers
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// plan is what snapshot says; recheck lists what comes twice.
func (j *job) plan(recheck ...flow.RecheckEntry) *flow.Message {
	records := []events.Record{
		events.NewRecord(time.Now(), j.x.w.Config.Job, events.SnapshotTaken{Guest: j.guest, Consistency: "offline", At: events.At(time.Now())}),
	}
	for d := range j.images {
		cells, numbers := j.planned(d)
		c := events.ChangesResolved{Guest: j.guest, Number: uint32(d), Cells: cells, Parcels: uint32(len(numbers))}
		records = append(records, events.NewRecord(time.Now(), j.x.w.Config.Job, c))
	}
	b, err := events.EncodeRecords(records)
	must(j, err)
	p := &flow.Plan{Facts: b} // the even ones as a list, as older workers say it, the others as marks
	for _, e := range recheck {
		if e.Number%2 == 0 {
			p.Recheck = append(p.Recheck, e)
			continue
		}
		m := flow.Marks{Disk: e.Disk, Bits: make([]byte, e.Number/8+1)}
		m.Bits[e.Number/8] = 1 << (e.Number % 8)
		p.Marks = append(p.Marks, m)
	}
	return &flow.Message{Plan: p}
}

// parcel is a parcel as chunker sends it.
func (j *job) parcel(disk int, n uint32) *flow.Parcel {
	from, to := j.span(disk, n)
	p := &flow.Parcel{Disk: uint32(disk), Number: n, Offset: from, Length: to - from}
	for at := from; at < to; at += labCell {
		cell := j.images[disk][at:min(at+labCell, to)]
		for _, c := range j.cut.Cut(cell, nil) {
			x := flow.Piece{Offset: uint32(at - from + c.Offset), Length: uint32(c.Length), Zero: c.Zero}
			if !c.Zero {
				b := cell[c.Offset : c.Offset+c.Length]
				x.Chunk = j.ids.ID(b)
				j.bytes[x.Chunk] = bytes.Clone(b)
			}
			p.Pieces = append(p.Pieces, x)
		}
	}
	return p
}

// decide does delta's part, after delta's own comment and not its code.
func (j *job) decide(p *flow.Parcel) {
	var old []table.MapPiece
	if d := j.work().Disks[p.Disk].Parent; d != nil {
		m, err := table.OpenMap(j.Context(), j.v, *d)
		must(j, err)
		for o, err := range m.Range(j.Context(), p.Offset, p.Offset+p.Length) {
			must(j, err)
			old = append(old, o)
		}
	}
	for i := range p.Pieces {
		x := &p.Pieces[i]
		same := len(old) == 0 && x.Zero && j.work().Disks[p.Disk].Parent == nil
		for _, o := range old {
			from, to := p.Offset+int64(x.Offset), p.Offset+int64(x.Offset+x.Length)
			if x.Zero {
				same = same || o.Zero && o.Offset <= from && o.Offset+o.Length >= to
			} else {
				same = same || !o.Zero && o.Offset == from && o.Offset+o.Length == to && o.Chunk == x.Chunk && !j.x.distrusted[flow.PackID(o.Pack)]
			}
		}
		at, known := j.known[x.Chunk]
		known = known && !j.x.distrusted[flow.PackID{Job: at.Job, Name: at.Pack}]
		_, recent := j.x.own(x.Chunk)
		switch {
		case same && (!p.Fresh || x.Zero):
			x.Verdict = flow.Unchanged
		case (known || recent) && !p.Fresh && !x.Zero:
			x.Verdict = flow.Known
		default:
			x.Verdict = flow.New
		}
	}
}

// store does the part of seal and uploader: what is new goes into the open pack.
func (j *job) store(p *flow.Parcel) {
	if j.placed == nil {
		var name id.Object
		for i := range name {
			name[i] = byte(j.rnd.Uint32())
		}
		j.pack, j.room, j.placed = flow.Pack{Name: name}, 100, map[id.Chunk]flow.Piece{}
	}
	for i := range p.Pieces {
		x := &p.Pieces[i]
		if x.Verdict != flow.New || x.Zero {
			continue
		}
		if _, twin := j.placed[x.Chunk]; !twin {
			j.placed[x.Chunk] = flow.Piece{At: j.room, Stored: x.Length/2 + 1}
			j.room += x.Length/2 + 1
			j.pack.Chunks++
		}
		x.At, x.Stored = j.placed[x.Chunk].At, j.placed[x.Chunk].Stored
		p.Packs = make([]flow.Pack, 1)
	}
}

// closePack makes an object of the open pack's size and puts it into the parcels.
func (j *job) closePack(parcels []*flow.Parcel) {
	j.pack.Size = int64(j.room)
	for _, p := range parcels {
		for i := range p.Packs {
			p.Packs[i] = j.pack
		}
	}
	if len(j.placed) > 0 {
		must(j, j.v.Store.PutNew(j.Context(), vault.PackName(j.x.w.Config.Job, j.pack.Name), j.pack.Size, bytes.NewReader(make([]byte, j.room))))
	}
	j.placed = nil
}

// tell gives the indexer a message as it comes over the wire.
func (j *job) tell(m *flow.Message) {
	j.Helper()
	must(j, j.learn(m))
}

// ask is what the indexer asks for now, nil if that is nothing.
func (j *job) ask() *flow.Ask {
	if p := j.x.asks.Next(); p != nil {
		return p.Ask()
	}
	return nil
}

func (j *job) learn(m *flow.Message) error {
	j.Helper()
	b, err := m.Encode()
	must(j, err)
	m, err = flow.DecodeMessage(b)
	must(j, err)
	return j.x.learn(j.Context(), m)
}

// through sends parcels through delta, seal and uploader, in batches that share
// a pack, and to the indexer.
func (j *job) through(parcels []*flow.Parcel) {
	j.Helper()
	for len(parcels) > 0 {
		n := min(len(parcels), 1+j.rnd.IntN(4))
		for _, p := range parcels[:n] {
			j.decide(p)
			j.store(p)
		}
		j.closePack(parcels[:n])
		for _, p := range parcels[:n] {
			if j.tell(&flow.Message{Parcel: p}); !j.x.disks[p.Disk].has(p.Number) {
				j.Fatalf("%s does not resolve", p)
			}
		}
		parcels = parcels[n:]
	}
}

// lacks is what has not come: the first time, and the second.
func (j *job) lacks(limit int) (first, second []flow.RecheckEntry) {
	for _, p := range j.x.missing(0, limit) {
		if p.Pass == flow.PassRecheck {
			second = p.List
		} else {
			first = append(first, p.List...)
		}
	}
	return first, second
}

// run does a whole job, everything in random order and some of it twice.
func (j *job) run() *events.PointCommitted {
	j.Helper()
	var parcels []*flow.Parcel
	var recheck []flow.RecheckEntry
	for d := range j.images {
		_, numbers := j.planned(d)
		for _, n := range numbers {
			parcels = append(parcels, j.parcel(d, n))
			if j.rnd.IntN(10) == 0 {
				parcels = append(parcels, j.parcel(d, n))
			}
			if j.rnd.IntN(10) == 0 {
				recheck = append(recheck, flow.RecheckEntry{Disk: uint32(d), Number: n})
			}
		}
	}
	j.rnd.Shuffle(len(parcels), func(a, b int) { parcels[a], parcels[b] = parcels[b], parcels[a] })
	early := j.rnd.IntN(len(parcels) + 1)
	j.through(parcels[:early])
	second := recheck[:j.rnd.IntN(len(recheck)+1)]
	j.again(second)
	j.tell(j.plan(recheck...))
	j.again(recheck)
	j.through(parcels[early:])
	j.tell(j.plan())
	if !j.x.complete(0) || j.x.guests[0].fault != nil {
		j.Fatalf("incomplete: %v, fault %v", j.x.missing(0, 10), j.x.guests[0].fault)
	}
	return j.commit()
}

func (j *job) again(list []flow.RecheckEntry) {
	j.Helper()
	for _, e := range list {
		p := j.parcel(int(e.Disk), e.Number)
		p.Pass = flow.PassRecheck
		j.tell(&flow.Message{Parcel: p})
	}
}

// commit commits and lets the next job know the chunks.
func (j *job) commit() *events.PointCommitted {
	j.Helper()
	must(j, j.x.commit(j.Context(), 0))
	if f := j.x.guests[0].fault; f != nil {
		j.Fatal(f)
	}
	for d := range j.images {
		for p, err := range j.x.found(uint32(d), nil)(j.Context()) {
			must(j, err)
			if !p.Zero {
				j.index[p.Chunk] = chunkindex.Place{Job: p.Pack.Job, Pack: p.Pack.Name, Offset: p.PackOffset, Stored: p.Stored, Raw: p.Raw}
			}
		}
	}
	var point *events.PointCommitted
	for _, f := range j.facts() {
		if p, ok := f.(events.PointCommitted); ok {
			point = &p
		}
	}
	if point == nil {
		j.Fatal("no point in the ledger")
	}
	return point
}

// facts are those of this job in the ledger.
func (j *job) facts() (out []events.Fact) {
	j.Helper()
	for r, err := range j.l.Records(j.Context(), 0) {
		must(j, err)
		if r.Job == j.x.w.Config.Job {
			out = append(out, r.Fact)
		}
	}
	return out
}

// want compares a point with the bytes that its disks should have.
func (b *lab) want(point *events.PointCommitted, images ...[]byte) {
	b.Helper()
	for n, im := range images {
		d := point.Disks[n]
		m, err := table.OpenMap(b.Context(), b.v, d)
		must(b, err)
		if m.Size() != int64(len(im)) || m.Layers() > table.MaxLayers {
			b.Fatalf("disk %d: %d bytes, want %d; %d layers", n, m.Size(), len(im), m.Layers())
		}
		got := make([]byte, 0, len(im))
		for p, err := range m.Range(b.Context(), 0, m.Size()) {
			must(b, err)
			if p.Zero {
				got = append(got, make([]byte, p.Length)...)
				continue
			}
			c := b.bytes[p.Chunk]
			if int64(len(c)) != int64(p.Raw) {
				b.Fatalf("disk %d at %d: chunk of %d bytes, table says %d", n, p.Offset, len(c), p.Raw)
			}
			got = append(got, c[p.ChunkOffset:p.ChunkOffset+p.Length]...)
		}
		if !bytes.Equal(got, im) {
			for i := range im {
				if got[i] != im[i] {
					b.Fatalf("disk %d differs at byte %d: %#x, want %#x", n, i, got[i], im[i])
				}
			}
		}
	}
}

// randomImage has data, zeros and repeats.
func randomImage(rnd *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for range size / labCell {
		edit(rnd, b)
	}
	return b
}

// edit changes some of an image: noise, zeros, or a copy of something else in it.
func edit(rnd *rand.Rand, b []byte) {
	n := min(1+rnd.IntN(3*labCell), len(b))
	at := rnd.IntN(len(b) - n + 1)
	if rnd.IntN(2) == 0 {
		at = at / 4096 * 4096
	}
	switch rnd.IntN(4) {
	case 0:
		clear(b[at : at+n])
	case 1:
		from := rnd.IntN(len(b)-n+1) / 4096 * 4096
		copy(b[at:at+n], bytes.Clone(b[from:from+n]))
	default:
		for i := at; i < at+n; i += 8 {
			var w [8]byte
			binary.LittleEndian.PutUint64(w[:], rnd.Uint64())
			copy(b[i:at+n], w[:])
		}
	}
}
