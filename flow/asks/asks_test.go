package asks

import (
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/flow"
)

func entries(disk uint32, from, to int) (out []flow.RecheckEntry) {
	for n := from; n < to; n++ {
		out = append(out, flow.RecheckEntry{Disk: disk, Number: uint32(n)})
	}
	return out
}

// However many parcels of however many guests are wanted, in whatever order they come,
// never are more than a window of questions open, few are asked, and all parcels once.
func TestAWindowIsNeverExceeded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var b Book
	const guests, each = Window + 20, 300
	for g := range uint32(guests) {
		if g > 0 { // as they are refused: one by one
			for n := range each {
				b.Want(Parcels{Guest: g, Fresh: true, List: entries(g, n, n+1)})
			}
			continue
		}
		b.Want(Parcels{Guest: g, Fresh: true, List: entries(g, 0, each)})
	}
	var out []flow.RecheckEntry
	asked, questions := map[flow.RecheckEntry]int{}, 0
	for len(asked) < guests*each || len(out) > 0 {
		for p := b.Next(); p != nil; p = b.Next() {
			questions++
			for _, e := range p.List {
				if e.Disk != p.Guest || !p.Fresh {
					t.Fatalf("%+v of guest %d, fresh %v", e, p.Guest, p.Fresh)
				}
				asked[e]++
				out = append(out, e)
			}
			b.Want(*p) // refused meanwhile: it is on its way
		}
		if len(out) == 0 || len(b.open) > Window {
			t.Fatalf("%d on their way, %d asked for", len(out), len(asked))
		}
		k := rnd.IntN(len(out))
		b.Came(out[k], flow.PassBackup)
		out = append(out[:k], out[k+1:]...)
	}
	for e, n := range asked {
		if n != 1 {
			t.Fatalf("%v was asked for %d times", e, n)
		}
	}
	if b.Next() != nil || len(b.wanted)+len(b.lines)+len(b.guests)+len(b.open) != 0 || questions > 2*guests {
		t.Errorf("%d questions; left: %+v", questions, b)
	}
}

// A question goes at once when none is open, and waits for company when one is.
func TestSingleParcelsAreAskedForTogether(t *testing.T) {
	var b Book
	b.Want(Parcels{List: entries(0, 0, 1)})
	if p := b.Next(); p == nil || len(p.List) != 1 {
		t.Fatalf("asked %+v", p)
	}
	for n := 1; n < Company; n++ {
		b.Want(Parcels{List: entries(0, n, n+1)})
		if p := b.Next(); p != nil {
			t.Fatalf("%d of them went alone", len(p.List))
		}
	}
	b.Came(entries(0, 0, 1)[0], flow.PassBackup)
	if p := b.Next(); p == nil || len(p.List) != Company-1 {
		t.Fatalf("asked %+v", p)
	}
}

// What is wanted in one way is asked for again when it is wanted fresh, and never the
// other way round; the two readings of a parcel are two; a guest can be dropped.
func TestHowAParcelIsWanted(t *testing.T) {
	var b Book
	one := entries(3, 7, 8)
	b.Want(Parcels{List: one})
	b.Want(Parcels{List: one, Pass: flow.PassRecheck})
	if p := b.Next(); p == nil || p.Fresh || p.Pass != flow.PassBackup || len(p.List) != 1 {
		t.Fatalf("asked %+v", p)
	}
	b.Want(Parcels{List: one, Fresh: true})
	b.Came(one[0], flow.PassRecheck)
	if p := b.Next(); p == nil || !p.Fresh || len(p.List) != 1 {
		t.Fatalf("asked %+v", p)
	}
	b.Want(Parcels{List: one})
	if p := b.Next(); p != nil {
		t.Fatalf("asked %+v", p)
	}
	b.Want(Parcels{Guest: 1, List: entries(4, 0, 9)})
	b.Drop(0)
	if p := b.Next(); p == nil || p.Guest != 1 || len(p.List) != 9 || p.Ask().Guest != 1 {
		t.Fatalf("asked %+v", p)
	}
	b.Lost()
	b.Want(Parcels{List: one})
	if p := b.Next(); p == nil || len(p.List) != 1 {
		t.Fatalf("asked %+v", p)
	}
}

// All that a job stores again at once is one question, which fits into a message.
func TestManyParcelsAreOneQuestion(t *testing.T) {
	var b Book
	b.Want(Parcels{Guest: 1, Fresh: true, List: entries(1<<31, 1<<31, 1<<31+Most)})
	p := b.Next()
	if p == nil || len(p.List) != Most || b.Next() != nil {
		t.Fatalf("asked %+v", p)
	}
	m, err := (&flow.Message{Ask: p.Ask()}).Encode()
	if err != nil || len(m) > flow.MaxMessage/4 {
		t.Fatalf("%d bytes, %v", len(m), err)
	}
	if got, err := flow.DecodeMessage(m); err != nil || len(got.Ask.Reread) != Most {
		t.Fatalf("it cannot be read: %v", err)
	}
}

// An answer that is lost holds up its own guest alone.
func TestALostAnswerHoldsUpNoOtherGuest(t *testing.T) {
	var b Book
	for g := range uint32(3) {
		b.Want(Parcels{Guest: g, List: entries(g, 0, 1)})
		if p := b.Next(); p == nil || p.Guest != g {
			t.Fatalf("asked %+v", p)
		}
		b.Want(Parcels{Guest: g, List: entries(g, 1, 2)})
		if p := b.Next(); p != nil {
			t.Fatalf("asked %+v", p)
		}
	}
}
