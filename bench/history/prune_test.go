package history

import (
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
