// Package asks keeps what the indexer wants of snapshot: which parcels are to be sent
// once more, which of these are on their way, and which may be asked for now.
//
// Snapshot answers one question at a time, and an answer waits while the stages behind
// it are full. The indexer empties the last of these queues, so it must never wait for
// snapshot: with more questions in a full queue than it has room for, each would wait
// for the other for ever. A [Book] therefore has at most [Window] questions open. It is
// their number that counts: how many parcels one names does not matter to the queue,
// and snapshot goes through a whole disk for each, so that few large ones are wanted.
//
// A book is in memory alone. What it knew of is lost with its process and found again by
// the plan, as parcels that have not come. It is for one goroutine.
package asks

import (
	"slices"

	"github.com/millrace-backup/millrace/flow"
)

const (
	// Window is how many questions may be open, of all guests together. The indexer asks
	// as many of each other kind at most. A successor that does not know of them may ask
	// the same once more, and the queue still has room.
	Window = flow.MaxQueued / 8

	// Most is how many parcels a question names at most: some 0.5 MB, and fewer values than a message may have.
	Most = 1 << 15

	// Company is how many parcels are worth another question about a guest of which
	// one is open.
	Company = 64
)

// Parcels is a question for some parcels of one guest.
type Parcels struct {
	Guest uint32
	Pass  uint8
	Fresh bool // nothing is to be taken as known
	List  []flow.RecheckEntry
}

// Ask is the message that asks it.
func (p *Parcels) Ask() *flow.Ask {
	return &flow.Ask{Guest: p.Guest, Reread: p.List, Pass: p.Pass, Fresh: p.Fresh}
}

// parcel is one reading of a parcel.
type parcel struct {
	flow.RecheckEntry
	pass uint8
}

// how a parcel is wanted.
type how struct {
	guest    uint32
	fresh    bool
	question uint64 // in which it was posted, 0 if it was not
}

// line is what is wanted of one guest.
type line struct {
	queue []parcel // those not posted, in order; and some that are settled
	out   int      // those posted
	idle  int      // those not posted
}

// Book is what is wanted. The zero value wants nothing.
type Book struct {
	wanted map[parcel]how
	lines  map[uint32]*line // by guest; only such as want something
	guests []uint32         // of lines, the one to be asked about next first
	open   map[uint64]int   // questions, and how many parcels each waits for
	last   uint64           // question
}

// Want notes parcels of a guest. What is wanted or on its way already is not asked for
// twice, unless it is wanted fresh from now on and was not.
func (b *Book) Want(p Parcels) {
	if b.wanted == nil {
		b.wanted, b.lines, b.open = map[parcel]how{}, map[uint32]*line{}, map[uint64]int{}
	}
	for _, e := range p.List {
		k := parcel{e, p.Pass}
		old, ok := b.wanted[k]
		if ok && (old.fresh || !p.Fresh) {
			continue
		}
		if ok {
			b.remove(k)
		}
		b.wanted[k] = how{guest: p.Guest, fresh: p.Fresh}
		l := b.lines[p.Guest]
		if l == nil {
			l = &line{}
			b.lines[p.Guest] = l
			b.guests = append(b.guests, p.Guest)
		}
		l.queue = append(l.queue, k)
		l.idle++
	}
}

// Came notes that a parcel is here.
func (b *Book) Came(e flow.RecheckEntry, pass uint8) { b.remove(parcel{e, pass}) }

// Drop forgets what is wanted of a guest, for which nothing more is to be done.
func (b *Book) Drop(guest uint32) {
	for k, h := range b.wanted {
		if h.guest == guest {
			b.remove(k)
		}
	}
}

// Lost forgets everything: no question is on its way, nor an answer.
func (b *Book) Lost() { *b = Book{} }

// Room is how many parcels more may be wanted by who has many to choose from.
func (b *Book) Room() int { return max(Most-len(b.wanted), Company) }

func (b *Book) remove(k parcel) {
	h, ok := b.wanted[k]
	if !ok {
		return
	}
	delete(b.wanted, k)
	l := b.lines[h.guest]
	if h.question == 0 {
		l.idle--
	} else {
		l.out--
		if b.open[h.question]--; b.open[h.question] == 0 {
			delete(b.open, h.question)
		}
	}
	if l.out+l.idle == 0 {
		delete(b.lines, h.guest)
		b.guests = slices.DeleteFunc(b.guests, func(g uint32) bool { return g == h.guest })
	}
}

// Next is what may be asked now, nil if there is nothing or it has to wait: a question
// about a guest goes when the last ones about it are answered, or when these are nearly
// and it has [Company]. So parcels refused one after the other are asked for together,
// and an answer that is lost holds up no other guest.
func (b *Book) Next() *Parcels {
	if len(b.open) >= Window {
		return nil
	}
	for at, g := range b.guests {
		l := b.lines[g]
		if l.idle == 0 || l.out > 0 && (l.idle < Company || l.out > Company) {
			continue
		}
		b.guests = append(slices.Delete(b.guests, at, at+1), g)
		return b.ask(g, l)
	}
	return nil
}

// ask posts a question about a guest of which something is idle.
func (b *Book) ask(guest uint32, l *line) *Parcels {
	var p *Parcels
	b.last++
	rest := l.queue[:0]
	for _, k := range l.queue {
		h, ok := b.wanted[k]
		if !ok || h.guest != guest || h.question != 0 { // settled
			continue
		}
		if p == nil {
			p = &Parcels{Guest: guest, Pass: k.pass, Fresh: h.fresh}
		}
		if k.pass != p.Pass || h.fresh != p.Fresh || len(p.List) == Most {
			rest = append(rest, k)
			continue
		}
		p.List = append(p.List, k.RecheckEntry)
		h.question = b.last
		b.wanted[k] = h
	}
	l.queue = rest
	l.out, l.idle = l.out+len(p.List), l.idle-len(p.List)
	b.open[b.last] = len(p.List)
	return p
}
