package history

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/prune"
	"github.com/millrace-backup/millrace/vault"
)

// What a prune reads follows what was forgotten, but for an index of each table that
// is needed; MILLRACE_POINTS="100 1000" says how old the vaults are.
func TestWhatAPruneReads(t *testing.T) {
	ages := "60 240"
	if text := os.Getenv("MILLRACE_POINTS"); text != "" {
		ages = text
	}
	for _, text := range strings.Fields(ages) {
		points, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		h, st := made(t, points, Options{})
		v := h.Vault
		for _, n := range []int{5, 40} { // the oldest
			s, err := catalog.Fold(h.Ledger.Records(t.Context(), 0))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range s.Listed()[:n] {
				if _, err := h.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointForgotten{Point: p.Point, Guest: p.Guest}}, nil, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CatchUp(h.Ledger.Records(t.Context(), s.Next)); err != nil {
				t.Fatal(err)
			}
			st.Take()
			began := time.Now()
			plan, err := prune.Look(t.Context(), v, s, prune.Options{Sparse: 50, Scratch: filepath.Join(t.TempDir(), "rows"), Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			c := st.Take()
			t.Logf("%d points, %d forgotten: %d reads of %d bytes in %s; %d tables of forgotten points, %d indexes, %d needed tables read; %d packs, %d sparse ones and %d tables go, %d bytes",
				points, n, c.Gets, c.Bytes, time.Since(began).Round(time.Millisecond), plan.Read.Forgotten, plan.Read.Indexes, plan.Read.Tables,
				len(plan.Packs), len(plan.Sparse), len(plan.Tables), plan.Bytes())
			if int(c.Gets) > 3*plan.Read.Indexes+40*plan.Read.Forgotten+40*plan.Read.Tables || plan.Read.Tables > 40*n {
				t.Errorf("%d reads, %+v", c.Gets, plan.Read)
			}
			work := prune.Work{Vault: v, Ledger: h.Ledger, Job: id.NewJob(), Now: time.Now}
			if _, err := work.Retire(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// noRoom is a vault that takes no packs.
type noRoom struct{ *Memory }

var errNoRoom = errors.New("no room")

func (s noRoom) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if strings.HasPrefix(name, "packs/") {
		return errNoRoom
	}
	return s.Memory.PutNew(ctx, name, size, body)
}

// A sparse pack that is missing stays and is named; it, and moving that fails, keep
// nothing else from being retired.
func TestASparsePackThatIsMissing(t *testing.T) {
	for _, full := range []bool{false, true} {
		h, st := made(t, 36, Options{Guests: 2, DiskSize: 512 << 10, Changes: 2})
		s, err := catalog.Fold(h.Ledger.Records(t.Context(), 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Listed()[:30] {
			if _, err := h.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointForgotten{Point: p.Point, Guest: p.Guest}}, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		look := func(sparse int) *prune.Plan {
			if err := s.CatchUp(h.Ledger.Records(t.Context(), s.Next)); err != nil {
				t.Fatal(err)
			}
			plan, err := prune.Look(t.Context(), h.Vault, s, prune.Options{Full: true, Sparse: sparse, Scratch: filepath.Join(t.TempDir(), "rows"), Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return plan
		}
		plan := look(90)
		if len(plan.Sparse) < 2 || len(plan.Tables) == 0 {
			t.Fatalf("%d sparse packs and %d tables", len(plan.Sparse), len(plan.Tables))
		}
		v := *h.Vault
		if full {
			v.Store = noRoom{st}
		}
		lost := plan.Sparse[1].Pack
		if err := st.Delete(t.Context(), vault.PackName(lost.Job, lost.Pack)); err != nil {
			t.Fatal(err)
		}
		work := prune.Work{Vault: &v, Ledger: h.Ledger, Job: id.NewJob(), Now: time.Now}
		did, err := work.Retire(t.Context(), plan)
		if full {
			if !errors.Is(err, prune.ErrNotMoved) || !errors.Is(err, errNoRoom) || did.Moved != 0 {
				t.Errorf("no room: %+v, %v", did, err)
			}
		} else if err != nil || did.Moved != len(plan.Sparse)-1 || len(did.Passed) != 1 || !strings.Contains(did.Passed[0].Error(), lost.Pack.String()) {
			t.Errorf("a missing pack: %+v, %v", did, err)
		}
		if did.Packs-did.Moved != len(plan.Packs) || did.Tables < len(plan.Tables) {
			t.Errorf("%d packs and %d tables are retired, want %d and %d besides what has moved", did.Packs, did.Tables, len(plan.Packs), len(plan.Tables))
		}
		if again := look(0); !again.Empty() {
			t.Errorf("%d packs and %d tables are left", len(again.Packs), len(again.Tables))
		}
	}
}
