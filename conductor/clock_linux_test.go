package conductor

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/ledger"
)

// A clock that jumps by hours and days, forwards and back, with each question:
// jobs end well, an increment builds on the point before, and the next job takes
// nobody for alive or dead because of it.
func TestClockJumps(t *testing.T) {
	b := newBed(t, 48<<20)
	var asked atomic.Int64
	jumps := []time.Duration{0, -time.Hour, time.Hour, 72 * time.Hour, -72 * time.Hour, 20 * 365 * 24 * time.Hour}
	now := func() time.Time { return time.Now().Add(jumps[asked.Add(1)%int64(len(jumps))]) }
	for n := range 3 {
		o := b.options(t)
		l, err := ledger.Open(t.Context(), b.vault, ledger.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		o.Now, o.Ledger = now, l
		s, err := Backup(t.Context(), o)
		if err != nil || s.Outcome != "done" {
			t.Fatalf("job %d: outcome %q, %v, guests %+v", n, s.Outcome, err, s.Guests)
		}
		f := s.Finished
		if n > 0 && f.NewBytes != 0 {
			t.Errorf("job %d stored %d bytes of a disk that had not changed", n, f.NewBytes)
		}
		if listed := b.check(t).Listed(); len(listed) != n+1 {
			t.Errorf("%d points after %d jobs", len(listed), n+1)
		}
	}
	if asked.Load() < 9 {
		t.Errorf("the clock was asked %d times: it is not the one in use", asked.Load())
	}
}
