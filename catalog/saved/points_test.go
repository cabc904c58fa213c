package saved

import (
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
)

// The copy of a point goes when a snapshot holds the point, which a snapshot's name
// does not show; and a copy of which the ledger does not know stays, since it
// may be all that is left.
func TestCopiesThatNoSnapshotStandsFor(t *testing.T) {
	v, l := newVault(t)
	for n := range 5 {
		if _, err := l.Append(t.Context(), id.Job{byte(n)}, []events.Fact{
			events.JobStarted{Verb: "backup"}, events.PointCommitted{Point: id.Point{byte(n + 1)}, Guest: id.Guest{1}, GuestName: "g"},
		}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	s, err := catalog.Fold(l.Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	stray := &catalog.Point{PointCommitted: events.PointCommitted{Point: id.Point{99}, Guest: id.Guest{1}}, Job: id.Job{9}}
	if err := putCopy(t.Context(), v, stray); err != nil {
		t.Fatal(err)
	}
	check := func(want int) {
		t.Helper()
		if err := Save(t.Context(), v, l, s); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range v.Store.List(t.Context(), copyFolder) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("%d copies, want %d", n, want)
		}
	}
	check(6)
	size, _, err := l.At(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	junk := strings.Repeat("x", signedSize+10)
	if err := v.Store.PutNew(t.Context(), objectName(ledger.Reached{Seq: 4, Size: size}), int64(len(junk)), strings.NewReader(junk)); err != nil {
		t.Fatal(err)
	}
	check(6)
	if err := save(t.Context(), v, l, s, nil); err != nil { // one that stands for them
		t.Fatal(err)
	}
	check(1)
}
