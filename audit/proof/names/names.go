// Package names holds what the ledger says of objects, by name, in little memory.
//
// [Set.Add] takes each mention of an object in the clear header of a segment, in any order;
// [Set.All] yields each name once, in byte order, which is that of a store's listing, with
// what was said of it last. So the objects that should be there and those that are there
// can be walked over side by side, however many they are: what does not fit 8 MiB lies in a
// scratch file (package spill).
//
// What a segment says counts if something proves the segment; of those of which nothing
// does, [Set.Doubt] is told. They may explain why an object is there. They are heard for
// what it should be only where no proven segment speaks of it: what was signed is neither
// replaced nor retired by what anyone could have written.
//
// A Set is for one goroutine.
package names

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"slices"
	"sort"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger"
)

// A record is a name, padded with zeros so that records sort as names do, the number of
// the segment that says it, what it says, and sum and size. Names of packs and tables have
// at most 104 bytes; the few that are longer are held in memory.
const (
	nameRoom  = 120
	refBytes  = nameRoom + 8 + 1 + 32 + 8
	refBudget = 8 << 20
)

// Ref is what the ledger says of an object in the end.
type Ref struct {
	Name    string
	Sum     events.Hash // SHA-256
	Size    int64
	Seq     uint64 // of the segment that says so
	Retired bool
	Proven  bool // so is that segment
	// Claim is a segment that is not proven and speaks of an object of which a
	// proven one has spoken, if Claimed.
	Claim   uint64
	Claimed bool
}

// Set is what all segments say of objects.
type Set struct {
	sorter *spill.Sorter
	long   []Ref
	doubts []span // ascending, apart
}

// span are segments, both ends included.
type span struct{ from, to uint64 }

// New makes an empty set whose scratch file is log.
func New(log *spill.Log) *Set { return &Set{sorter: spill.NewSorter(log, refBytes, refBudget)} }

// Add takes what segment seq says of an object: that it is brought in, or retired.
func (x *Set) Add(seq uint64, o ledger.ObjectRef, retired bool) error {
	if len(o.Name) > nameRoom {
		x.long = append(x.long, Ref{Name: o.Name, Sum: o.Sum, Size: o.Size, Seq: seq, Retired: retired})
		return nil
	}
	var b [refBytes]byte
	copy(b[:nameRoom], o.Name)
	binary.BigEndian.PutUint64(b[nameRoom:], seq)
	if retired {
		b[nameRoom+8] = 1
	}
	copy(b[nameRoom+9:], o.Sum[:])
	binary.BigEndian.PutUint64(b[nameRoom+41:], uint64(o.Size))
	return x.sorter.Add(b[:])
}

// Doubt says that nothing proves segment seq. It may be said in any order, before All.
func (x *Set) Doubt(seq uint64) {
	at := sort.Search(len(x.doubts), func(n int) bool { return x.doubts[n].to+1 >= seq })
	switch {
	case at == len(x.doubts) || x.doubts[at].from > seq+1:
		x.doubts = slices.Insert(x.doubts, at, span{seq, seq})
	case x.doubts[at].from == seq+1:
		x.doubts[at].from = seq
	case x.doubts[at].to+1 == seq:
		x.doubts[at].to = seq
	}
	if at+1 < len(x.doubts) && x.doubts[at].to+1 == x.doubts[at+1].from {
		x.doubts[at].to = x.doubts[at+1].to
		x.doubts = slices.Delete(x.doubts, at+1, at+2)
	}
}

// proven reports whether nothing was said against a segment.
func (x *Set) proven(seq uint64) bool {
	at := sort.Search(len(x.doubts), func(n int) bool { return x.doubts[n].to >= seq })
	return at == len(x.doubts) || x.doubts[at].from > seq
}

func parseRef(b []byte) Ref {
	return Ref{
		Name: string(bytes.TrimRight(b[:nameRoom], "\x00")), Seq: binary.BigEndian.Uint64(b[nameRoom:]), Retired: b[nameRoom+8] == 1,
		Sum: events.Hash(b[nameRoom+9:][:32]), Size: int64(binary.BigEndian.Uint64(b[nameRoom+41:])),
	}
}

// All yields for each name, in order, what a proven segment said of it last; if none did,
// what any did.
func (x *Set) All() iter.Seq2[Ref, error] {
	slices.SortFunc(x.long, func(a, b Ref) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Seq, b.Seq))
	})
	return func(yield func(Ref, error) bool) {
		long, held, any := x.long, Ref{}, false
		// give hands over r, and before it what comes earlier.
		give := func(r Ref) bool {
			r.Proven = x.proven(r.Seq)
			switch {
			case !any || held.Name != r.Name:
				ok := !any || yield(held, nil)
				held, any = r, true
				return ok
			case r.Proven || !held.Proven:
				r.Claim, r.Claimed = held.Claim, held.Claimed
				if r.Proven && !held.Proven {
					r.Claim, r.Claimed = held.Seq, true
				}
				held = r
			default:
				held.Claim, held.Claimed = r.Seq, true
			}
			return true
		}
		for b, err := range x.sorter.Sorted() {
			if err != nil {
				yield(Ref{}, err)
				return
			}
			r := parseRef(b)
			for len(long) > 0 && long[0].Name < r.Name {
				if !give(long[0]) {
					return
				}
				long = long[1:]
			}
			if !give(r) {
				return
			}
		}
		for _, r := range long {
			if !give(r) {
				return
			}
		}
		if any {
			yield(held, nil)
		}
	}
}

// Bytes is how much there is to read of what is not retired.
func (x *Set) Bytes() (total int64, err error) {
	for r, err := range x.All() {
		if err != nil {
			return 0, err
		}
		if !r.Retired {
			total += r.Size
		}
	}
	return total, nil
}
