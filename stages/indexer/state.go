package indexer

import (
	"fmt"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/catalog/rows"
	"github.com/millrace-backup/millrace/catalog/spool"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
)

// state is what the journal says, folded. It changes by messages only, so that a
// restarted indexer comes to the same one. What grows with the disks is in files.
type state struct {
	work       *flow.Work
	base       Index
	distrusted map[flow.PackID]bool
	gone       map[flow.PackID]bool // went while the job ran
	recent     *arena.Recent        // of this job's chunks: none that is there is missing in it, while it has room
	guests     []guest
	disks      []disk
	spool      *spool.Spool

	packs      []pack
	byName     map[id.Object]uint32 // into packs
	recorded   map[id.Object]bool   // of this job's packs those that a predecessor has put in the ledger
	unrecorded int                  // packs of this job that are not in the ledger
	packBytes  int64                // of this job's packs
}

// Index says where chunks lie that the job did not store: those from before it, and
// those that other jobs have told of since.
type Index interface {
	Find(c id.Chunk) (chunkindex.Place, bool)
	TakeUp(all bool) error // looks for what has come since
}

type guest struct {
	planned   bool
	recheck   int             // how many parcels are read twice
	facts     []events.Record // what snapshot found, not yet in the ledger
	recorded  bool            // ... now it is
	asked     bool            // confirmation asked for by this process
	confirmed bool
	fault     *flow.Fault
	point     id.Point
	released  bool
	releasing bool                 // asked for by this process
	replaced  map[flow.PackID]bool // gone packs whose content this guest stores again
}

// settled reports whether the guest has its point, or will have none.
func (g *guest) settled() bool { return g.fault != nil || !g.point.IsZero() }

type disk struct {
	first   uint64 // number of its first parcel among those of all disks
	plan    events.ChangesResolved
	planned bool
	left    uint32 // parcels still to come
	here    []byte // bit per parcel: come
	reread  uint32
	twice   []byte                 // bit per parcel: still to be read a second time
	again   uint32                 // how many these are
	second  map[uint32]rows.Digest // read a second time before the first had come
	stale   map[uint32]int64       // parcels to be stored again, and those that were; of each, what counted as known or new
	rows    rows.Disk

	zero, unchanged, known, fresh, stored, read int64
	newChunks, knownChunks                      uint64
}

type pack struct {
	flow.Pack
	job      id.Job
	isNew    bool
	recorded bool // PackStored is in the ledger
}

// newState begins a state whose files are in folder. The newest of the chunks it
// stores, so many of them, are in memory; 0 means the default.
func newState(work *flow.Work, base Index, recent *arena.Recent, folder string, chunks int) (*state, error) {
	s := &state{work: work, base: base, recent: recent, distrusted: work.DistrustedPacks(), gone: map[flow.PackID]bool{}, byName: map[id.Object]uint32{}, recorded: map[id.Object]bool{}}
	s.guests = make([]guest, len(work.Guests))
	s.disks = make([]disk, len(work.Disks))
	first, err := uint64(0), error(nil)
	if s.spool, err = spool.Open(folder, chunks); err != nil {
		return nil, err
	}
	for n := range s.disks {
		bits := (work.Parcels(n) + 7) / 8
		s.disks[n] = disk{first: first, here: make([]byte, bits), twice: make([]byte, bits), second: map[uint32]rows.Digest{}, rows: rows.NewDisk(s.spool.Rows)}
		first += uint64(work.Parcels(n))
	}
	return s, nil
}

func bit(bits []byte, n uint32) bool { return bits[n/8]&(1<<(n%8)) != 0 }
func (d *disk) has(n uint32) bool    { return bit(d.here, n) }

// expect has a parcel read twice.
func (d *disk) expect(n uint32) {
	if !bit(d.twice, n) {
		d.twice[n/8] |= 1 << (n % 8)
		d.again++
	}
}

func (d *disk) seen(n uint32) {
	d.twice[n/8] &^= 1 << (n % 8)
	d.again--
}

// problem is an error in what a message says.
func problem(object, cause string) *flow.Fault {
	return &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "index", Object: object, Cause: cause, Remedy: "report this; run the job again"}
}

// decision is what is to be done with a parcel.
type decision struct {
	take   bool
	again  bool                          // it refers to what is not there: read it again, and take nothing as known
	places map[id.Chunk]chunkindex.Place // of its known chunks
}

// accept says what to do with a parcel: take it, drop it as a duplicate, or have
// it read again because a reference in it leads nowhere. It changes nothing.
func (s *state) accept(p *flow.Parcel) (how decision, err error) {
	if err := s.fits(p); err != nil {
		return how, err
	}
	d := &s.disks[p.Disk]
	if d.planned && !bit(d.plan.Cells, p.Number) {
		return how, s.unplanned(p.Disk, p.Number)
	}
	if p.Pass == flow.PassRecheck {
		_, came := d.second[p.Number]
		how.take = !came && (!d.planned || bit(d.twice, p.Number))
		return how, nil
	}
	if d.has(p.Number) {
		return how, nil
	}
	_, stale := d.stale[p.Number]
	if stale && !p.Fresh { // a duplicate of the first, or somebody asked who did not know
		return decision{again: true}, nil
	}
	if s.wentIn(p) { // stored again, and that has gone as well
		return decision{again: true}, nil
	}
	for i := range p.Pieces {
		x := &p.Pieces[i]
		switch {
		case x.Verdict == flow.Undecided, x.Verdict == flow.Known && x.Zero, x.Verdict == flow.New && !x.Zero && (x.Stored == 0 || len(p.Packs) != 1):
			return how, problem(p.String(), fmt.Sprintf("piece %d has not been through all stages", i))
		case x.Verdict == flow.Unchanged && !x.Zero && s.work.Disks[p.Disk].Parent == nil:
			return how, problem(p.String(), fmt.Sprintf("piece %d is unchanged, but there is no parent", i))
		case x.Verdict == flow.Unchanged && !x.Zero && stale:
			return how, problem(p.String(), fmt.Sprintf("piece %d is unchanged, but what the parent has there is gone", i))
		case x.Verdict == flow.Known && !x.Zero:
			at, ok := s.find(x.Chunk)
			if !ok { // delta may have seen a file that is new to us
				if err := s.base.TakeUp(true); err != nil {
					return how, err
				}
				at, ok = s.find(x.Chunk)
			}
			if !ok || at.Raw != wholeOf(x) {
				return decision{again: true}, nil
			}
			if how.places == nil {
				how.places = map[id.Chunk]chunkindex.Place{}
			}
			how.places[x.Chunk] = at
		}
	}
	how.take = true
	return how, nil
}

// wentIn reports whether what is new in a parcel lies in a pack that has gone.
func (s *state) wentIn(p *flow.Parcel) bool {
	for _, in := range p.Packs {
		if n, ok := s.byName[in.Name]; ok && s.gone[flow.PackID{Job: s.packs[n].job, Name: in.Name}] {
			return true
		}
	}
	return false
}

// fits checks that the parcel is one of the job, whole.
func (s *state) fits(p *flow.Parcel) error {
	if int(p.Disk) >= len(s.disks) || p.Number >= s.work.Parcels(int(p.Disk)) || p.Offset != int64(p.Number)*s.work.ParcelSize {
		return problem(p.String(), "it is not a parcel of the job")
	}
	end := int64(0)
	for i := range p.Pieces {
		end += int64(p.Pieces[i].Length)
	}
	if end != p.Length || p.Length != min(s.work.ParcelSize, s.work.Disks[p.Disk].Info.VirtualSize-p.Offset) {
		return problem(p.String(), fmt.Sprintf("its pieces cover %d bytes", end))
	}
	return nil
}

// wholeOf is the length of the chunk that a piece is all or a part of.
func wholeOf(x *flow.Piece) uint32 {
	if x.Raw != 0 {
		return x.Raw
	}
	return x.Length
}

// find says where a chunk is: in a pack of this job, or where it was before,
// unless that is a pack the job distrusts.
func (s *state) find(c id.Chunk) (chunkindex.Place, bool) {
	if p, ok := s.own(c); ok {
		return p, true
	}
	p, ok := s.base.Find(c)
	pack := flow.PackID{Job: p.Job, Name: p.Pack}
	return p, ok && !s.distrusted[pack] && !s.gone[pack]
}

// own says where this job has stored a chunk. Most it has not, which the table in
// shared memory says at once.
func (s *state) own(c id.Chunk) (chunkindex.Place, bool) {
	if !s.recent.Full() && !s.recent.Has(c) {
		return chunkindex.Place{}, false
	}
	p, ok := s.spool.Stored.Find(c)
	return p, ok && !s.gone[flow.PackID{Job: p.Job, Name: p.Pack}]
}

func (s *state) packNumber(p flow.Pack, job id.Job, isNew bool) uint32 {
	if n, ok := s.byName[p.Name]; ok {
		return n
	}
	n := uint32(len(s.packs))
	s.packs = append(s.packs, pack{Pack: p, job: job, isNew: isNew, recorded: isNew && s.recorded[p.Name]})
	s.byName[p.Name] = n
	if isNew {
		if !s.packs[n].recorded {
			s.unrecorded++
		}
		s.packBytes += p.Size
	}
	return n
}

// written notes that a pack is in the ledger.
func (s *state) written(n uint32) {
	if p := &s.packs[n]; p.isNew && !p.recorded {
		p.recorded = true
		s.unrecorded--
	}
}

// take enters a parcel that accept let in.
func (s *state) take(job id.Job, p *flow.Parcel, how decision) error {
	d := &s.disks[p.Disk]
	if p.Pass == flow.PassRecheck {
		d.second[p.Number] = rows.DigestOf(p)
		return s.compare(p.Disk, p.Number)
	}
	put := d.rows.Put
	if _, again := d.stale[p.Number]; again {
		put = d.rows.Replace
		if err := s.discount(p); err != nil {
			return err
		}
	} else if err := s.spool.Digests.Put(d.first+uint64(p.Number), rows.DigestOf(p)); err != nil {
		return err
	}
	var packN uint32
	if len(p.Packs) == 1 {
		packN = s.packNumber(p.Packs[0], job, true)
	}
	var differ []byte
	for i := range p.Pieces {
		var err error
		if differ, err = s.takePiece(differ, d, &p.Pieces[i], packN, how); err != nil {
			return err
		}
	}
	if err := put(p.Number, differ); err != nil {
		return err
	}
	d.here[p.Number/8] |= 1 << (p.Number % 8)
	if d.planned { // else takePlan counts it
		d.left--
	}
	if p.Fresh {
		d.reread++
	}
	return s.compare(p.Disk, p.Number)
}

// takePiece counts a piece and adds its row, if it has one. A chunk of which the
// parcel has several parts counts with the one that begins it.
func (s *state) takePiece(differ []byte, d *disk, x *flow.Piece, packN uint32, how decision) ([]byte, error) {
	n := int64(x.Length)
	r := rows.Row{Offset: x.Offset, Length: x.Length, Zero: x.Zero, Chunk: x.Chunk, From: x.From}
	switch {
	case x.Zero:
		d.zero += n
		if x.Verdict == flow.New {
			differ = rows.Append(differ, rows.Row{Offset: x.Offset, Length: x.Length, Zero: true})
		}
		return differ, nil
	case x.Verdict == flow.Unchanged:
		d.unchanged += n
		return differ, nil
	case x.Verdict == flow.Known:
		d.known += n
		r.Known, r.Counted = true, x.From == 0
		if r.Counted {
			d.knownChunks++
		}
		at := how.places[x.Chunk]
		r.Pack, r.At, r.Stored, r.Raw = s.packNumber(flow.Pack{Name: at.Pack}, at.Job, false), at.Offset, at.Stored, at.Raw
		return rows.Append(differ, r), nil
	}
	// A chunk that was stored although the index knows where it lies was read
	// again because nobody trusts that place: the new one it is.
	d.fresh += n
	r.Pack, r.At, r.Stored, r.Raw = packN, x.At, x.Stored, wholeOf(x)
	if _, twin := s.own(x.Chunk); !twin {
		r.Counted = true
		d.stored += int64(x.Stored)
		d.newChunks++
		k := &s.packs[packN]
		if err := s.spool.Stored.Add(chunkindex.Row{Chunk: x.Chunk, Place: chunkindex.Place{Job: k.job, Pack: k.Name, Offset: x.At, Stored: x.Stored, Raw: r.Raw}}); err != nil {
			return differ, err
		}
		s.recent.Add(x.Chunk) // durable and journaled: from now on it is known
	}
	return rows.Append(differ, r), nil
}

// compare checks a parcel that was read twice, once both are here. A difference
// is the guest's end in this job: the image was written to while it was read.
func (s *state) compare(diskN, number uint32) error {
	d := &s.disks[diskN]
	second, twice := d.second[number]
	if !bit(d.twice, number) || !twice || !d.has(number) {
		return nil
	}
	first, err := s.spool.Digests.Get(d.first + uint64(number))
	if err != nil {
		return err
	}
	delete(d.second, number)
	d.seen(number)
	if second != first {
		s.fail(s.work.Disks[diskN].Guest, s.changed(diskN, "bytes at %d differ when they are read again", number))
	}
	return nil
}

// unplanned: snapshot planned anew and found data where there had been a hole.
func (s *state) unplanned(diskN, number uint32) *flow.Fault {
	return s.changed(diskN, "there is data at %d where there was a hole", number)
}

// changed is the fault of a guest whose image did not hold still.
func (s *state) changed(diskN uint32, what string, number uint32) *flow.Fault {
	d := &s.work.Disks[diskN]
	return &flow.Fault{
		Class: flow.Park, Code: "source-changed", Stage: flow.Indexer, Op: "read image", Object: d.Info.Path, Guest: d.Guest,
		Cause:  fmt.Sprintf(what, int64(number)*s.work.ParcelSize),
		Remedy: "shut the guest down, or back it up through its hypervisor, then run the job again; nothing of it is listed",
	}
}

func (s *state) compareAll(n uint32) error {
	for number := range s.disks[n].second {
		if err := s.compare(n, number); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) fail(n uint32, f *flow.Fault) {
	if g := &s.guests[n]; !g.settled() {
		g.fault = f
	}
}

// complete reports whether all of a guest is here and was seen to hold still.
func (s *state) complete(n uint32) bool {
	if !s.guests[n].planned {
		return false
	}
	for i := range s.disks {
		d := &s.disks[i]
		if s.work.Disks[i].Guest == n && (!d.planned || d.left != 0 || d.again != 0) {
			return false
		}
	}
	return true
}
