// Package asks keeps what the indexer wants of snapshot: which parcels are to be sent
// once more, which of these are on their way, and which may be asked for now.
//
// Snapshot answers one question at a time, and an answer waits while the stages behind
// it are full. The indexer empties the last of these queues, so it must never wait for
// snapshot: with more questions in a full queue than it has room for, each would wait
// for the other for ever. A [Book] therefore lets out at most [Window] parcels, however
// many are wanted, and more only as those come: questions never fill a queue.
//
// A book is in memory alone. What it knew of is lost with its process and found again by
// the plan, as parcels that have not come. It is for one goroutine.
package asks

import "github.com/millrace-backup/millrace/flow"

// Window is how many parcels may be on their way, of all guests together. Each
// question names at least one, so it bounds the questions in snapshot's queue too.
const Window = flow.MaxQueued / 4

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
	guest  uint32
	fresh  bool
	posted bool
}

// Book is what is wanted. The zero value wants nothing.
type Book struct {
	wanted map[parcel]how
	queue  []parcel // those not posted, in order; and some that are settled
	out    int      // those posted
	idle   int      // those not posted
}

// Want notes parcels of a guest. What is wanted or on its way already is not asked for
// twice, unless it is wanted fresh from now on and was not.
func (b *Book) Want(p Parcels) {
	if b.wanted == nil {
		b.wanted = map[parcel]how{}
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
		b.queue = append(b.queue, k)
		b.idle++
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

func (b *Book) remove(k parcel) {
	h, ok := b.wanted[k]
	switch {
	case !ok:
		return
	case h.posted:
		b.out--
	default:
		b.idle--
	}
	delete(b.wanted, k)
}

// Next is what may be asked now, nil if there is nothing or it has to wait: a
// question goes when the last ones are answered, or when half a window is wanted and
// half is free. So parcels refused one after the other are asked for together.
func (b *Book) Next() *Parcels {
	if b.idle == 0 || b.out > 0 && (b.idle < Window/2 || b.out > Window/2) {
		return nil
	}
	var p *Parcels
	for at := 0; at < len(b.queue) && b.out < Window; at++ {
		k := b.queue[at]
		h, ok := b.wanted[k]
		if !ok || h.posted { // settled
			continue
		}
		if p == nil {
			p = &Parcels{Guest: h.guest, Pass: k.pass, Fresh: h.fresh}
		}
		if h.guest != p.Guest || k.pass != p.Pass || h.fresh != p.Fresh {
			continue
		}
		p.List = append(p.List, k.RecheckEntry)
		h.posted = true
		b.wanted[k] = h
		b.out, b.idle = b.out+1, b.idle-1
	}
	b.shorten()
	return p
}

// shorten takes away the queue's beginning that is settled.
func (b *Book) shorten() {
	for len(b.queue) > 0 {
		if h, ok := b.wanted[b.queue[0]]; ok && !h.posted {
			return
		}
		b.queue = b.queue[1:]
	}
}
