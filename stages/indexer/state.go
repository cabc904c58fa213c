package indexer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// state is what the journal says, folded. It changes by messages only, so that a
// restarted indexer comes to the same one.
type state struct {
	work       *flow.Work
	base       Index
	distrusted map[flow.PackID]bool
	guests     []guest
	disks      []disk

	chunks map[id.Chunk]uint32 // into places
	places []place
	packs  []pack
	byName map[id.Object]uint32 // into packs
}

// Index says where chunks lay when the job began.
type Index interface {
	Find(c id.Chunk) (chunkindex.Place, bool)
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
	releasing bool // asked for by this process
}

type disk struct {
	plan    events.ChangesResolved
	planned bool
	left    uint32 // parcels still to come
	here    []byte // bit per parcel: come
	reread  uint32
	digests map[uint32]digest // of every parcel's cuts
	recheck map[uint32]bool   // still to be read a second time
	second  map[uint32]digest // read a second time before the first had come
	parcels []parcel
	rows    []row

	zero, unchanged, known, fresh, stored, read int64
	newChunks, knownChunks                      uint64
}

type parcel struct{ number, from, to uint32 } // rows[from:to]

// row is a range that differs from the parent: zero, or a chunk.
type row struct {
	offset int64
	length uint32
	chunk  uint32 // into places; noChunk: zero
}

const noChunk = ^uint32(0)

// place is where a chunk is. Chunks known before the job have a pack of an
// earlier job.
type place struct {
	chunk               id.Chunk
	pack                uint32 // into packs
	offset, stored, raw uint32
	isNew               bool
}

type pack struct {
	flow.Pack
	job      id.Job
	isNew    bool
	recorded bool // PackStored is in the ledger
}

type digest [sha256.Size]byte

func digestOf(p *flow.Parcel) digest {
	h := sha256.New()
	var b [9]byte
	for i := range p.Pieces {
		x := &p.Pieces[i]
		binary.LittleEndian.PutUint32(b[:], x.Offset)
		binary.LittleEndian.PutUint32(b[4:], x.Length)
		b[8] = 0
		if x.Zero {
			b[8] = 1
		}
		h.Write(b[:])
		h.Write(x.Chunk[:])
	}
	return digest(h.Sum(nil))
}

func newState(work *flow.Work, base Index) *state {
	s := &state{work: work, base: base, distrusted: work.DistrustedPacks(), chunks: map[id.Chunk]uint32{}, byName: map[id.Object]uint32{}}
	s.guests = make([]guest, len(work.Guests))
	s.disks = make([]disk, len(work.Disks))
	for n := range s.disks {
		s.disks[n] = disk{
			here: make([]byte, (work.Parcels(n)+7)/8), digests: map[uint32]digest{},
			recheck: map[uint32]bool{}, second: map[uint32]digest{},
		}
	}
	return s
}

func bit(bits []byte, n uint32) bool { return bits[n/8]&(1<<(n%8)) != 0 }

func (d *disk) has(n uint32) bool { return bit(d.here, n) }

// problem is an error in what a message says.
func problem(object, cause string) *flow.Fault {
	return &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "index", Object: object, Cause: cause, Remedy: "report this; run the job again"}
}

// accept says what to do with a parcel: take it, drop it as a duplicate, or have
// it read again because a reference in it leads nowhere. It changes nothing.
func (s *state) accept(p *flow.Parcel) (take bool, unresolved id.Chunk, err error) {
	if int(p.Disk) >= len(s.disks) || p.Number >= s.work.Parcels(int(p.Disk)) || p.Offset != int64(p.Number)*s.work.ParcelSize {
		return false, unresolved, problem(p.String(), "it is not a parcel of the job")
	}
	end := int64(0)
	for i := range p.Pieces {
		end += int64(p.Pieces[i].Length)
	}
	if end != p.Length || p.Length != min(s.work.ParcelSize, s.work.Disks[p.Disk].Info.VirtualSize-p.Offset) {
		return false, unresolved, problem(p.String(), fmt.Sprintf("its pieces cover %d bytes", end))
	}
	d := &s.disks[p.Disk]
	if d.planned && !bit(d.plan.Cells, p.Number) {
		return false, unresolved, s.unplanned(p.Disk, p.Number)
	}
	if p.Pass == flow.PassRecheck {
		_, came := d.second[p.Number]
		return !came && (!d.planned || d.recheck[p.Number]), unresolved, nil
	}
	if d.has(p.Number) {
		return false, unresolved, nil
	}
	for i := range p.Pieces {
		x := &p.Pieces[i]
		switch {
		case x.Verdict == flow.Undecided, x.Verdict == flow.Known && x.Zero, x.Verdict == flow.New && !x.Zero && (x.Stored == 0 || len(p.Packs) != 1):
			return false, unresolved, problem(p.String(), fmt.Sprintf("piece %d has not been through all stages", i))
		case x.Verdict == flow.Unchanged && !x.Zero && s.work.Disks[p.Disk].Parent == nil:
			return false, unresolved, problem(p.String(), fmt.Sprintf("piece %d is unchanged, but there is no parent", i))
		case x.Verdict == flow.Known && !x.Zero:
			if _, ok := s.find(x.Chunk); !ok {
				return false, x.Chunk, nil
			}
		}
	}
	return true, unresolved, nil
}

// find says where a chunk is: in a pack of this job, or where it was before,
// unless that is a pack the job distrusts.
func (s *state) find(c id.Chunk) (uint32, bool) {
	if n, ok := s.chunks[c]; ok {
		return n, true
	}
	at, ok := s.base.Find(c)
	if !ok || s.distrusted[flow.PackID{Job: at.Job, Name: at.Pack}] {
		return 0, false
	}
	n := s.packNumber(flow.Pack{Name: at.Pack}, at.Job, false)
	return s.addPlace(place{chunk: c, pack: n, offset: at.Offset, stored: at.Stored, raw: at.Raw}), true
}

func (s *state) packNumber(p flow.Pack, job id.Job, isNew bool) uint32 {
	if n, ok := s.byName[p.Name]; ok {
		return n
	}
	n := uint32(len(s.packs))
	s.packs = append(s.packs, pack{Pack: p, job: job, isNew: isNew})
	s.byName[p.Name] = n
	return n
}

func (s *state) addPlace(p place) uint32 {
	n := uint32(len(s.places))
	s.places = append(s.places, p)
	s.chunks[p.chunk] = n
	return n
}

// take enters a parcel that accept let in.
func (s *state) take(job id.Job, p *flow.Parcel) {
	d := &s.disks[p.Disk]
	if p.Pass == flow.PassRecheck {
		d.second[p.Number] = digestOf(p)
		s.compare(p.Disk, p.Number)
		return
	}
	d.here[p.Number/8] |= 1 << (p.Number % 8)
	if d.planned { // else takePlan counts it
		d.left--
	}
	if p.Fresh {
		d.reread++
	}
	d.digests[p.Number] = digestOf(p)
	in := parcel{number: p.Number, from: uint32(len(d.rows))}
	var packN uint32
	if len(p.Packs) == 1 {
		packN = s.packNumber(p.Packs[0], job, true)
	}
	for i := range p.Pieces {
		s.takePiece(d, p, &p.Pieces[i], packN)
	}
	if in.to = uint32(len(d.rows)); in.to > in.from {
		d.parcels = append(d.parcels, in)
	}
	s.compare(p.Disk, p.Number)
}

func (s *state) takePiece(d *disk, p *flow.Parcel, x *flow.Piece, packN uint32) {
	n := int64(x.Length)
	switch {
	case x.Zero:
		d.zero += n
		if x.Verdict == flow.New {
			d.rows = append(d.rows, row{p.Offset + int64(x.Offset), x.Length, noChunk})
		}
		return
	case x.Verdict == flow.Unchanged:
		d.unchanged += n
		return
	}
	at, ok := s.find(x.Chunk)
	if x.Verdict == flow.Known {
		d.known += n
		d.knownChunks++
	} else {
		d.fresh += n
		// A chunk that was stored although the index knows where it lies was read
		// again because nobody trusts that place: the new one it is.
		if !ok || !s.places[at].isNew {
			at, ok = s.addPlace(place{chunk: x.Chunk, pack: packN, offset: x.At, stored: x.Stored, raw: x.Length, isNew: true}), true
			d.stored += int64(x.Stored)
			d.newChunks++
		}
	}
	if ok {
		d.rows = append(d.rows, row{p.Offset + int64(x.Offset), x.Length, at})
	}
}

// compare checks a parcel that was read twice, once both are here. A difference
// is the guest's end in this job: the image was written to while it was read.
func (s *state) compare(diskN, number uint32) {
	d := &s.disks[diskN]
	second, twice := d.second[number]
	if !d.recheck[number] || !twice || !d.has(number) {
		return
	}
	delete(d.second, number)
	delete(d.recheck, number)
	if second != d.digests[number] {
		s.fail(s.work.Disks[diskN].Guest, s.changed(diskN, "bytes at %d differ when they are read again", number))
	}
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

func (s *state) compareAll(n uint32) {
	for number := range s.disks[n].second {
		s.compare(n, number)
	}
}

func (s *state) fail(n uint32, f *flow.Fault) {
	if g := &s.guests[n]; g.fault == nil && g.point.IsZero() {
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
		if s.work.Disks[i].Guest == n && (!d.planned || d.left != 0 || len(d.recheck) != 0) {
			return false
		}
	}
	return true
}
