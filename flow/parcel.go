package flow

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"

	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
)

// Passes of a parcel.
const (
	PassBackup  = 0 // what is stored
	PassRecheck = 1 // read again at the end, to see that the image held still
)

// Run is a range of a disk, in bytes.
type Run struct {
	Offset int64 `json:"o"`
	Length int64 `json:"n"`
}

// Parcel is the unit of work between stages: one or more whole cells of one
// disk, with what the stages have found out so far. Its identity is job (known
// from the stream), Disk, Number and Pass.
type Parcel struct {
	Disk   uint32 `json:"d"` // ordinal of the disk in the job
	Number uint32 `json:"p"` // Offset divided by the job's parcel size
	Pass   uint8  `json:"a"`
	Fresh  bool   `json:"f,omitempty"` // take nothing as known: an earlier answer did not resolve
	// Partial: only the blocks that Runs touch are read; all others are as the parent
	// has them. Runs are whole blocks then.
	Partial bool  `json:"t,omitempty"`
	Offset  int64 `json:"o"` // of its first byte in the disk
	Length  int64 `json:"l"`

	Runs   []Run       `json:"r,omitempty"` // snapshot, reader: where data may be; the rest is holes
	Claim  arena.Claim `json:"c"`           // reader: raw bytes; seal: sealed bytes
	Pieces Pieces      `json:"x,omitempty"` // chunker, delta, seal, uploader: see Piece
	Packs  []Pack      `json:"k,omitempty"` // uploader: where the new pieces went
	Sum    []byte      `json:"u,omitempty"` // chunker: 16 bytes over all its blocks; equal if and only if they are
	Blocks []byte      `json:"b,omitempty"` // chunker: cell records for the sidecar; empty: as the parent's are
}

// Pack is a durable pack as the uploader reports it.
type Pack struct {
	Name   id.Object `json:"name"`
	Size   int64     `json:"size"`
	Chunks uint32    `json:"chunks"`
	Raw    int64     `json:"raw"` // of its chunks, before compression
	Key    uint32    `json:"key"` // Tink id of the data key
}

// Same reports whether both are the same work, though perhaps at another stage.
func (p *Parcel) Same(q *Parcel) bool {
	return p.Disk == q.Disk && p.Number == q.Number && p.Pass == q.Pass
}

func (p *Parcel) String() string {
	return fmt.Sprintf("parcel %d of disk %d (pass %d)", p.Number, p.Disk, p.Pass)
}

// Plan is what snapshot tells the indexer before the parcels of a guest: the
// facts, and in them how many parcels each disk has.
type Plan struct {
	Guest   uint32         `json:"guest"`           // ordinal in the job
	Facts   []byte         `json:"facts"`           // events.EncodeRecords
	Recheck []RecheckEntry `json:"recheck"`         // parcels that will come a second time; older workers say it so
	Marks   []Marks        `json:"marks,omitempty"` // more of them: a bit for each, however many they are
}

// Twice yields the parcels that will come a second time, however the plan names
// them; nothing says that the job has them.
func (p *Plan) Twice() iter.Seq[RecheckEntry] {
	return func(yield func(RecheckEntry) bool) {
		for _, e := range p.Recheck {
			if !yield(e) {
				return
			}
		}
		for _, m := range p.Marks {
			for e := range m.All() {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Marks names parcels of one disk.
type Marks struct {
	Disk uint32 `json:"d"`
	Bits []byte `json:"m"` // bit n%8 of byte n/8, the lowest first: parcel n
}

// All yields the marked parcels in order.
func (m Marks) All() iter.Seq[RecheckEntry] {
	return func(yield func(RecheckEntry) bool) {
		for i, b := range m.Bits {
			for ; b != 0; b &= b - 1 {
				if !yield(RecheckEntry{m.Disk, uint32(8*i + bits.TrailingZeros8(b))}) {
					return
				}
			}
		}
	}
}

// Has reports whether parcel n is marked.
func (m Marks) Has(n uint32) bool { return int(n/8) < len(m.Bits) && m.Bits[n/8]&(1<<(n%8)) != 0 }

// RecheckEntry names a parcel that is read twice.
type RecheckEntry struct {
	Disk   uint32 `json:"d"`
	Number uint32 `json:"p"`
}

// Ask is what the indexer wants of snapshot.
type Ask struct {
	Guest   uint32         `json:"guest"`
	Confirm bool           `json:"confirm,omitempty"` // say whether the images held still
	Release bool           `json:"release,omitempty"` // the guest is settled: let go
	Kept    bool           `json:"kept,omitempty"`    // ... and has its point
	Reread  []RecheckEntry `json:"reread,omitempty"`  // send these again
	Pass    uint8          `json:"pass,omitempty"`    // ... in this pass
	Fresh   bool           `json:"fresh,omitempty"`   // ... and have nothing taken as known
	Plan    bool           `json:"plan,omitempty"`    // send the plan again: it has not come
}

// Answer is snapshot's reply.
type Answer struct {
	Guest     uint32 `json:"guest"`
	Confirmed bool   `json:"confirmed,omitempty"` // the images held still
	Released  bool   `json:"released,omitempty"`
	Facts     []byte `json:"facts,omitempty"`
}

// Message is what travels: exactly one of its fields is set.
type Message struct {
	Parcel *Parcel `json:"parcel,omitempty"`
	Plan   *Plan   `json:"plan,omitempty"`
	Ask    *Ask    `json:"ask,omitempty"`
	Answer *Answer `json:"answer,omitempty"`
	Fault  *Fault  `json:"fault,omitempty"`

	// Payload is the parcel's bytes, where they travel with it; its claim has
	// their length then, and no slot.
	Payload []byte `json:"-"`
}

// check holds a message to what receivers rely on.
func (m *Message) check() error {
	set := 0
	for _, is := range []bool{m.Parcel != nil, m.Plan != nil, m.Ask != nil, m.Answer != nil, m.Fault != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("%d contents in it, not one", set)
	}
	if m.Parcel == nil {
		return m.carries(arena.Claim{})
	}
	return errors.Join(m.Parcel.check(), m.carries(m.Parcel.Claim))
}

// check: runs are sorted, apart and inside; pieces, if any, cover the parcel.
func (p *Parcel) check() error {
	if p.Length < 1 || p.Length > 1<<30 || p.Offset < 0 || p.Offset > 1<<62 {
		return fmt.Errorf("%s covers %d bytes at %d", p, p.Length, p.Offset)
	}
	at := p.Offset
	for _, r := range p.Runs {
		if r.Length < 1 || r.Length > p.Length || r.Offset < at || r.Offset-p.Offset > p.Length-r.Length {
			return fmt.Errorf("%s of %d bytes at %d cannot have a run of %d at %d", p, p.Length, p.Offset, r.Length, r.Offset)
		}
		at = r.Offset + r.Length
	}
	if n := len(p.Pieces); n > 0 {
		if last := &p.Pieces[n-1]; int64(last.Offset)+int64(last.Length) != p.Length {
			return fmt.Errorf("%s has %d bytes, its pieces end at %d", p, p.Length, int64(last.Offset)+int64(last.Length))
		}
	}
	return nil
}
