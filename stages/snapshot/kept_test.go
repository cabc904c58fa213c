package snapshot

import (
	"context"
	"iter"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/vdisk"
)

// teller tells changes, and counts how often it was asked.
type teller struct {
	changes []hypervisor.Range
	asked   int
}

func (t *teller) Changes(context.Context, hypervisor.Disk) iter.Seq2[hypervisor.Range, error] {
	t.asked++
	return func(yield func(hypervisor.Range, error) bool) {
		for _, r := range t.changes {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// A tracker is asked once for what is looked at several times, and whoever stopped in the
// middle has not made half of it pass for all.
func TestTrackerIsAskedOnce(t *testing.T) {
	const size = 100<<40 + 512
	from := &teller{changes: []hypervisor.Range{{Offset: 0, Length: 512}, {Offset: 512, Length: 512}, {Offset: 5000, Length: 9000}, {Offset: 50 << 40, Length: 1 << 30}, {Offset: size - 512, Length: 512}}}
	want := []vdisk.Extent{{Offset: 0, Length: 4096}, {Offset: 4096, Length: 12288}, {Offset: 50 << 40, Length: 1 << 30}, {Offset: 100 << 40, Length: 512}}
	x := &tracked{tracker: from, size: size, cell: 4 << 20, block: 4096}
	for range x.reported(t.Context()) {
		break
	}
	for range 3 {
		var got []vdisk.Extent
		for e, err := range x.reported(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	if from.asked != 2 {
		t.Errorf("asked %d times, want 2", from.asked)
	}
}

// What would take too much memory is asked for again.
func TestTooMuchIsNotKept(t *testing.T) {
	k := kept{b: make([]byte, maxKept+1)}
	k.add(1, 2)
	if !k.over || k.b != nil {
		t.Errorf("kept %d bytes", len(k.b))
	}
}
