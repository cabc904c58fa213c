package prunes

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// job is a backup of one guest, in steps.
type job struct {
	w      *world
	l      *ledger.Ledger
	id     id.Job
	guest  int
	gid    id.Guest
	at     int
	tries  int
	over   bool
	dies   int // at this step it ends without a word; 0: never
	disk   [blocks]uint32
	parent *catalog.Point
	old    *table.Map
	known  map[id.Chunk]table.MapPiece // what it may refer to
	mine   map[table.PackRef]bool
	gone   map[catalog.PackKey]bool
	guard  ledger.Guard
	trust  *trust.Packs
	in     []ledger.ObjectRef // packs no segment names yet
	facts  []events.Fact
	unsaid bool
}

func bytesOf(c uint32) []byte {
	b := make([]byte, block)
	r := rand.New(rand.NewPCG(uint64(c), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (w *world) startJob() error {
	n := w.rng.IntN(guests)
	g := id.NewGuest(w.vault.ID, fmt.Sprint(n))
	s, err := w.state(w.ledger)
	if err != nil || len(w.jobs) == 3 {
		return err
	}
	for _, j := range s.Jobs {
		if j.Open() && slices.Contains(j.Started.Guests, g) {
			return nil // it is busy
		}
	}
	l, err := w.open()
	if err != nil {
		return err
	}
	j := &job{w: w, l: l, id: id.NewJob(), guest: n, gid: g, mine: map[table.PackRef]bool{}, known: map[id.Chunk]table.MapPiece{},
		gone: map[catalog.PackKey]bool{}, trust: trust.New(w.store, w.vault.Config.DefaultDomain)}
	if w.rng.IntN(5) == 0 {
		j.dies = 1 + w.rng.IntN(5)
	}
	at, err := l.Append(w.ctx, j.id, []events.Fact{events.JobStarted{Verb: "backup", Guests: []id.Guest{g}}}, nil, nil)
	j.guard = ledger.Guard{Job: j.id, Next: at, Check: j.trust.Heed}
	w.jobs = append(w.jobs, j)
	return err
}

// step goes on. What a fenced job wants to say is refused, and that is its end.
func (j *job) step() error {
	j.at++
	if j.at == j.dies {
		j.over = true
		j.w.kinds["dead job"] = true
		return nil
	}
	var err error
	switch j.at {
	case 1:
		err = j.prepare()
	case 2:
		err = j.store()
	case 3:
		err = j.say()
	case 4:
		err = j.commit()
	default:
		j.over = true
		_, err = j.l.Append(j.w.ctx, j.id, []events.Fact{events.JobFinished{Outcome: "done"}}, nil, nil)
	}
	if errors.Is(err, ledger.ErrFenced) {
		j.over, err = true, nil
		j.w.kinds["fenced job"] = true
	}
	return err
}

// prepare finds the parent and what may be referred to, as the vault is now.
func (j *job) prepare() error {
	w := j.w
	s, err := w.state(j.l)
	if err != nil {
		return err
	}
	for n := range w.rng.IntN(blocks) {
		_ = n
		w.disks[j.guest][w.rng.IntN(blocks)] = uint32(w.rng.IntN(content))
	}
	j.disk = w.disks[j.guest]
	if g := s.Guests[j.gid]; g != nil && len(g.Points) > 0 && w.rng.IntN(4) > 0 {
		parent := *g.Points[len(g.Points)-1] // as it is now
		j.parent = &parent
		if j.old, err = table.OpenMap(w.ctx, w.vault, j.parent.Disks[0]); err != nil {
			return fmt.Errorf("open the parent of a job: %w", err)
		}
	}
	for _, p := range s.Listed() {
		for _, ref := range p.Disks[0].Chunks {
			t, err := table.OpenChunks(w.ctx, w.vault, ref)
			if err != nil {
				return fmt.Errorf("open a table of a listed point: %w", err)
			}
			for r, err := range t.All(w.ctx) {
				if err != nil {
					return err
				}
				k := t.Packs()[r.Pack]
				if pack := s.Packs[catalog.PackKey{Job: k.Job, Pack: k.Name}]; pack != nil && pack.Retired == 0 {
					j.known[r.Chunk] = table.MapPiece{Chunk: r.Chunk, Pack: k, PackOffset: r.Offset, Stored: r.Stored, Raw: r.Raw}
				}
			}
		}
	}
	return nil
}

// store puts what is not known into packs.
func (j *job) store() error {
	w := j.w
	d := w.vault.Config.DefaultDomain
	var pack *vault.PackWriter
	var fresh []id.Chunk
	finish := func() error {
		if pack == nil {
			return nil
		}
		info, err := pack.Close(w.ctx)
		if err != nil {
			return err
		}
		ref := table.PackRef{Job: j.id, Name: info.Name}
		j.mine[ref] = true
		for i, c := range fresh {
			e := info.Entries[i]
			j.known[c] = table.MapPiece{Chunk: c, Pack: ref, PackOffset: e.Offset, Stored: e.Stored, Raw: e.Raw}
		}
		j.in = append(j.in, ledger.ObjectRef{Name: vault.PackName(j.id, info.Name), Sum: events.Hash(info.Name), Size: info.Size})
		j.facts = append(j.facts, events.PackStored{Pack: info.Name, Domain: d, Size: info.Size, Chunks: uint32(len(info.Entries))})
		pack, fresh = nil, nil
		return nil
	}
	for _, n := range j.disk {
		b := bytesOf(n)
		c := w.ids.ID(b)
		if at, ok := j.known[c]; n == 0 || ok && !j.gone[catalog.PackKey{Job: at.Pack.Job, Pack: at.Pack.Name}] || slices.Contains(fresh, c) {
			continue
		}
		if pack == nil {
			var err error
			if pack, err = vault.NewPackWriter(w.ctx, w.store, w.vault.Keys, j.id, d); err != nil {
				return err
			}
		}
		codec, err := vault.NewCodec("none")
		if err != nil {
			return err
		}
		sealed, err := w.vault.Keys.SealChunk(nil, d, c, codec.Encode(nil, b))
		if err == nil {
			_, err = pack.Add(vault.PackEntry{Chunk: c, Raw: block}, vault.PackDisk{Guest: j.gid, Disk: id.NewDisk(j.gid, "disk")}, sealed)
		}
		if err != nil {
			return err
		}
		if fresh = append(fresh, c); len(fresh) == 4 {
			if err := finish(); err != nil {
				return err
			}
		}
	}
	return finish()
}

// say tells of the packs, now or with the point.
func (j *job) say() error {
	if len(j.facts) == 0 || j.w.rng.IntN(2) == 0 {
		return nil
	}
	_, err := j.l.AppendGuarded(j.w.ctx, j.id, &j.guard, j.facts, j.in, nil)
	if errors.Is(err, trust.ErrGone) {
		return fmt.Errorf("nothing was needed yet: %w", err)
	}
	if err == nil {
		j.facts, j.in = nil, nil
	}
	return err
}

// commit writes the tables and the point, unless a pack has gone: then it stores
// again what was in it, and commits at its next step.
func (j *job) commit() error {
	w := j.w
	if err := j.l.Show(w.ctx, &j.guard); err != nil {
		return err
	}
	defer j.trust.Done()
	disk, in, uses, err := j.tables()
	if err != nil {
		return err
	}
	j.trust.Need()
	again := false
	for _, k := range uses {
		key := catalog.PackKey{Job: k.Job, Pack: k.Name}
		if j.mine[k] {
			err = j.trust.Own(key)
		} else {
			err = j.trust.Check(w.ctx, key, 1)
		}
		if errors.Is(err, trust.ErrGone) {
			j.gone[key], again = true, true
		} else if err != nil {
			return err
		}
	}
	if again {
		return j.again()
	}
	point := events.PointCommitted{Point: id.NewPoint(j.id, j.gid), Guest: j.gid, GuestName: fmt.Sprint(j.guest), Time: events.At(w.real), Disks: []events.PointDisk{disk}}
	_, err = j.l.AppendGuarded(w.ctx, j.id, &j.guard, append(j.facts, point), append(j.in, in...), nil)
	if errors.Is(err, trust.ErrGone) {
		return j.again()
	}
	if err == nil {
		w.truth[point.Point] = j.disk
		w.kinds["point"] = true
	}
	return err
}

// again stores what has gone once more. The parent's layers are left behind then.
func (j *job) again() error {
	j.w.kinds["stored again"] = true
	if j.tries++; j.tries > 20 {
		return errors.New("a job has stored again twenty times")
	}
	for k := range j.mine {
		if j.gone[catalog.PackKey{Job: k.Job, Pack: k.Name}] {
			return fmt.Errorf("pack %s of a running job has gone", id.Short(k.Name))
		}
	}
	j.at = 3
	return j.store()
}

// tables writes the layer, over the parent's or a base, and lists the packs that all
// layers name.
func (j *job) tables() (disk events.PointDisk, in []ledger.ObjectRef, uses []table.PackRef, err error) {
	w := j.w
	d := w.vault.Config.DefaultDomain
	disk = events.PointDisk{Disk: id.NewDisk(j.gid, "disk"), Key: "disk", Size: blocks * block}
	base := j.parent == nil || len(j.gone) > 0 || len(j.parent.Disks[0].Extents) == table.MaxLayers
	was := [blocks]uint32{}
	if !base {
		was = w.truth[j.parent.Point]
	}
	var packs []table.PackRef
	var rows []table.ChunkRow
	var extents []table.ExtentRow
	number := map[id.Chunk]uint32{}
	for n, c := range j.disk {
		if c == was[n] {
			continue
		}
		row := table.ExtentRow{Offset: int64(n) * block, Length: block, Zero: c == 0}
		if c != 0 {
			p := j.known[w.ids.ID(bytesOf(c))]
			at := slices.Index(packs, p.Pack)
			if at < 0 {
				at = len(packs)
				packs = append(packs, p.Pack)
			}
			k, ok := number[p.Chunk]
			if !ok {
				k = uint32(len(rows))
				number[p.Chunk] = k
				rows = append(rows, table.ChunkRow{Chunk: p.Chunk, Pack: uint32(at), Offset: p.PackOffset, Stored: p.Stored, Raw: p.Raw, New: j.mine[p.Pack]})
			}
			row.Chunk, row.ID = k, p.Chunk
		}
		extents = append(extents, row)
	}
	chunks, in1, err := table.WriteChunks(w.ctx, w.vault, j.id, d, packs, each(rows))
	if err != nil {
		return disk, nil, nil, err
	}
	cover, in2, err := table.WriteExtents(w.ctx, w.vault, j.id, d, each(extents))
	if err != nil {
		return disk, nil, nil, err
	}
	disk.Extents, disk.Chunks, disk.Root = []events.TableRef{cover}, []events.TableRef{chunks}, cover.Root
	uses = packs
	if !base {
		disk.Extents = append(disk.Extents, j.parent.Disks[0].Extents...)
		disk.Chunks = append(disk.Chunks, j.parent.Disks[0].Chunks...)
		uses = slices.AppendSeq(slices.Clone(packs), j.old.Packs())
		w.kinds["layers"] = true
	}
	return disk, []ledger.ObjectRef{in1, in2}, uses, nil
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

// whole reads all of a point and compares.
func (w *world) whole(p *catalog.Point) error {
	w.checks++
	m, err := table.OpenMap(w.ctx, w.vault, p.Disks[0])
	if err != nil {
		return err
	}
	return w.compare(m, w.truth[p.Point], 0, blocks)
}

// compare reads blocks of a map.
func (w *world) compare(m *table.Map, want [blocks]uint32, from, to int64) error {
	for p, err := range m.Range(w.ctx, from*block, to*block) {
		if err != nil {
			return err
		}
		var plain []byte
		if !p.Zero {
			sealed := make([]byte, p.Stored)
			if _, err := w.store.Get(w.ctx, vault.PackName(p.Pack.Job, p.Pack.Name), int64(p.PackOffset), sealed); err != nil {
				return err
			}
			if plain, err = w.vault.Keys.Decode(p.Domain, p.Chunk, sealed, nil, w.ids); err != nil {
				return err
			}
		}
		for n := p.Offset / block; n < (p.Offset+p.Length)/block; n++ {
			if c := want[n]; c == 0 != p.Zero || c != 0 && !bytes.Equal(plain, bytesOf(c)) {
				return fmt.Errorf("block %d is not content %d", n, c)
			}
		}
	}
	return nil
}

// reader reads a point.
type reader struct {
	point *catalog.Point // as it was when the reading began
	m     *table.Map
	job   id.Job // of its pin
	pin   bool
	next  int64
	began time.Time
	at    uint64 // position of the pin
}

// protected: the pin stands, so nothing retired behind it may be deleted.
func (r *reader) protected(s *catalog.State) bool {
	_, ok := s.Pins[r.job]
	return r.pin && ok
}

// startReader begins to read a listed point. It pins first, and then looks whether
// the point is still there and nothing of it was retired before.
func (w *world) startReader() error {
	s, err := w.state(w.ledger)
	if err != nil {
		return err
	}
	listed := s.Listed()
	if len(listed) == 0 || len(w.readers) > 3 {
		return nil
	}
	p := listed[w.rng.IntN(len(listed))]
	r := &reader{job: id.NewJob(), pin: w.rng.IntN(3) > 0, began: w.real}
	if r.pin {
		if r.at, err = w.ledger.Append(w.ctx, r.job, []events.Fact{events.ReaderPinned{Purpose: "restore", Points: []id.Point{p.Point}}}, nil, nil); err != nil {
			return err
		}
	}
	if s, err = w.state(w.ledger); err != nil {
		return err
	}
	if r.point = s.Points[p.Point]; r.point.Forgotten != 0 {
		return nil
	}
	disks := *r.point
	r.point = &disks
	if r.m, err = table.OpenMap(w.ctx, w.vault, r.point.Disks[0]); err != nil {
		return fmt.Errorf("open a listed point: %w", err)
	}
	w.readers = append(w.readers, r)
	return nil
}

// read reads on. An unpinned reader may fail, if the margin allows it.
func (w *world) read(r *reader) error {
	err := w.compare(r.m, w.truth[r.point.Point], r.next, r.next+3)
	if err != nil && !r.pin {
		w.kinds["unpinned reader failed"] = true
		r.next, err = blocks, nil
	}
	if err != nil {
		return fmt.Errorf("a pinned reader: %w", err)
	}
	if r.next += 3; r.next < blocks {
		return nil
	}
	w.readers = slices.DeleteFunc(w.readers, func(o *reader) bool { return o == r })
	if r.pin {
		w.kinds["pinned reader"] = true
		_, err = w.ledger.Append(w.ctx, r.job, []events.Fact{events.ReaderPinned{Purpose: "restore", Released: true}}, nil, nil)
	}
	return err
}
