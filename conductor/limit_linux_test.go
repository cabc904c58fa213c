package conductor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/flow"
)

// TestLimits: all readers together, and all uploaders, keep to a rate while others join
// them, and the ledger knows it.
func TestLimits(t *testing.T) {
	b := newBed(t, 20<<20)
	const rate = 40 << 20
	for _, c := range []struct {
		stage string
		moved func(Summary) int64
	}{
		{flow.Uploader, func(s Summary) int64 { return s.Finished.StoredBytes }},
		{flow.Reader, func(s Summary) int64 { return s.Finished.ReadBytes }},
	} {
		t.Run(c.stage, func(t *testing.T) {
			o := b.options(t)
			o.Codec, o.Scan, o.ParcelSize = "none", "full", 4<<20
			o.Limits = map[string]int64{c.stage: rate}
			o.joined = func(ctx context.Context, _ *queue.Queue) { // four of them, as soon as that may be
				order, err := control.Order{Stages: map[string]int{c.stage: 4}}, errors.New("not yet")
				for ctx.Err() == nil && err != nil {
					var r control.Running
					if r, err = control.Find(ctx, b.state, ""); err == nil {
						_, err = r.Tune(ctx, order)
					}
				}
			}
			begun := time.Now()
			s, err := Backup(t.Context(), o)
			took := time.Since(begun)
			if err != nil || s.Outcome != "done" {
				t.Fatalf("outcome %q, %v, guests %+v", s.Outcome, err, s.Guests)
			}
			// A quarter of a second's bytes may pass at once, then a MiB, and what each
			// of four workers gathers before it asks.
			free := int64(rate/4 + 1<<20 + 4<<18)
			at := time.Duration(float64(c.moved(s)-free) / rate * float64(time.Second))
			if at < 100*time.Millisecond {
				t.Fatalf("%d bytes are too few to tell", c.moved(s))
			}
			if took < at {
				t.Errorf("%d bytes in %v, must be %v", c.moved(s), took, at)
			}
			if got := s.Finished.Settings["limit."+c.stage]; got != fmt.Sprint(rate) {
				t.Errorf("recorded is %q", got)
			}
		})
	}
	b.check(t)
}
