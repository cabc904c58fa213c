package conductor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
)

// The number of workers of random stages is changed a hundred times while a job
// runs. The disk is equal, no slot is left, no fact is there twice, the ledger tells
// of every change, and no worker was killed.
func TestTunedAHundredTimes(t *testing.T) {
	for _, transport := range []string{flow.Claim, flow.Inline} {
		t.Run(transport, func(t *testing.T) { tunedJob(t, transport) })
	}
}

func tunedJob(t *testing.T, transport string) {
	if testing.Short() {
		t.Skip("a job of half a GiB, tuned a hundred times")
	}
	const wanted = 100
	b := newBed(t, 512<<20)
	o := b.options(t)
	o.Transport, o.Codec = transport, "zstd"
	done := map[string]int{}
	now := map[string]int{flow.Reader: 1, flow.Chunker: 1, flow.Delta: 1, flow.Seal: 2, flow.Uploader: 1}
	o.Parallel = map[string]int{flow.Seal: 2}
	o.joined = func(ctx context.Context, _ *queue.Queue) {
		rng := rand.New(rand.NewPCG(5, 8))
		stages := []string{flow.Reader, flow.Chunker, flow.Delta, flow.Seal, flow.Uploader}
		for n := 0; n < wanted && ctx.Err() == nil; {
			r, err := control.Find(ctx, b.state, "")
			if err != nil {
				continue
			}
			stage := stages[rng.IntN(len(stages))]
			to := 1 + (now[stage]+rng.IntN(3))%4 // another than now
			got, err := r.Tune(ctx, control.Order{Stages: map[string]int{stage: to}, Why: fmt.Sprint("change ", n)})
			if err != nil {
				var f *flow.Fault
				if !errors.As(err, &f) || f.Code != "not-running" {
					t.Errorf("change %d, %s=%d: %v", n, stage, to, err)
					return
				}
				time.Sleep(5 * time.Millisecond) // it is just beginning
				continue
			}
			if want := (control.Change{Stage: stage, From: now[stage], To: to}); len(got) != 1 || got[0] != want {
				t.Errorf("change %d: %+v, want %+v", n, got, want)
			}
			now[stage] = to
			done[stage]++
			n++
		}
	}
	s, err := Backup(t.Context(), o)
	if err != nil || s.Outcome != "done" {
		t.Fatalf("outcome %q, %v, guests %+v", s.Outcome, err, s.Guests)
	}
	if s.SlotsLeft != 0 {
		t.Errorf("%d slots are left in use", s.SlotsLeft)
	}
	sum(t, s)
	b.check(t)
	checkScaled(t, b, s, done, wanted)
	for stage, n := range now {
		if got := s.Finished.Settings["parallel."+stage]; got != fmt.Sprint(n) {
			t.Errorf("the job's end says that %s had %s workers, it had %d", stage, got, n)
		}
	}
}

// checkScaled reads the tuned job back from the ledger.
func checkScaled(t *testing.T, b *bed, s Summary, done map[string]int, wanted int) {
	t.Helper()
	seen, scaled, workers := map[string]int{}, map[string]int{}, map[string]int{}
	var again uint64
	all, stopped := 0, 0
	for r, err := range b.ledger(t).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Job != s.Job {
			continue
		}
		switch f := r.Fact.(type) {
		case events.StageScaled:
			if f.From == f.To || f.By == "" || f.Why != fmt.Sprint("change ", all) || f.At == 0 {
				t.Errorf("change %d is written down as %+v", all, f)
			}
			scaled[f.Stage]++
			all++
		case events.StageStarted:
			if f.Restart > 0 {
				t.Errorf("%s worker %d is a replacement", f.Stage, f.Worker)
			}
			workers[f.Stage]++
		case events.StageStopped:
			if f.Exit != "ok" {
				t.Errorf("%s worker %d ended with %q", f.Stage, f.Worker, f.Exit)
			}
			again += f.Redelivered
			stopped++
			workers[f.Stage]--
		case events.PackStored:
			seen["PackStored "+f.Pack.String()]++
		default:
			seen[r.Kind]++
		}
	}
	for what, n := range seen {
		if n != 1 {
			t.Errorf("%s stands %d times in the ledger", what, n)
		}
	}
	for stage, n := range workers {
		if n != 0 {
			t.Errorf("%d workers of %s came and did not leave", n, stage)
		}
	}
	for stage, n := range done {
		if scaled[stage] != n {
			t.Errorf("%s was scaled %d times, the ledger says %d", stage, n, scaled[stage])
		}
	}
	if all != wanted {
		t.Errorf("%d changes in the ledger, want %d (a job that is over too soon proves nothing)", all, wanted)
	}
	t.Logf("%d changes, %d worker processes, %d deliveries again, %.1f s, %d MiB", all, stopped, again, s.Duration.Seconds(), s.Finished.DiskBytes>>20)
}

// What is written down of the stages at the end is the sum of what is written down
// of their workers, and somebody who watches sees the job to its end.
func TestTheEndSumsUpTheStages(t *testing.T) {
	b := newBed(t, 96<<20)
	o := b.options(t)
	reports, ended := 0, make(chan board.Report, 1)
	o.joined = func(ctx context.Context, _ *queue.Queue) {
		r, err := control.Find(ctx, b.state, "latest")
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			var last board.Report
			if err := r.Watch(context.WithoutCancel(ctx), func(r board.Report) bool { last = r; reports++; return true }); err != nil {
				t.Error(err)
			}
			ended <- last
		}()
	}
	s, err := Backup(t.Context(), o)
	if err != nil || s.Outcome != "done" {
		t.Fatalf("outcome %q, %v", s.Outcome, err)
	}
	last := <-ended
	if last.Type != "summary" || last.Outcome != "done" || last.Done != s.Finished.DiskBytes || last.New != s.Finished.NewBytes || len(last.Guests) != 1 || last.Guests[0].Point != s.Points()[0].String() || last.Guests[0].LastSuccess.IsZero() {
		t.Errorf("who watches sees %+v after %d reports", last, reports)
	}
	sums := map[string]events.StageAccount{}
	for r, err := range b.ledger(t).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if f, ok := r.Fact.(events.StageStopped); ok && r.Job == s.Job {
			a := sums[f.Stage]
			a.BusyNS, a.StarvedNS, a.BlockedNS, a.CPUNS = a.BusyNS+f.BusyNS, a.StarvedNS+f.StarvedNS, a.BlockedNS+f.BlockedNS, a.CPUNS+f.CPUNS
			a.InParcels, a.OutParcels, a.InBytes, a.OutBytes = a.InParcels+f.InParcels, a.OutParcels+f.OutParcels, a.InBytes+f.InBytes, a.OutBytes+f.OutBytes
			a.Processes++
			sums[f.Stage] = a
		}
	}
	if len(s.Finished.Stages) != len(flow.Stages()) {
		t.Fatalf("%d stages are written down", len(s.Finished.Stages))
	}
	for n, a := range s.Finished.Stages {
		want := sums[a.Stage]
		if a.Stage != flow.Stages()[n] || a.BusyNS != want.BusyNS || a.StarvedNS != want.StarvedNS || a.BlockedNS != want.BlockedNS || a.CPUNS != want.CPUNS ||
			a.InParcels != want.InParcels || a.OutParcels != want.OutParcels || a.InBytes != want.InBytes || a.OutBytes != want.OutBytes || a.Processes != want.Processes {
			t.Errorf("%s: written down is %+v, its workers say %+v", a.Stage, a, want)
		}
		if a.Workers != uint32(o.Parallel[a.Stage]) && a.Workers != 1 && a.Stage != flow.Seal || a.WatchedNS == 0 || a.CPUNS == 0 {
			t.Errorf("%s: %+v", a.Stage, a)
		}
	}
}

// An order that cannot be carried out changes nothing and says why; after the end
// nobody is there to be asked.
func TestOrdersThatAreRefused(t *testing.T) {
	b := newBed(t, 64<<20)
	o := b.options(t)
	var id string
	asked := make(chan struct{})
	o.joined = func(ctx context.Context, _ *queue.Queue) {
		defer close(asked)
		r, err := control.Find(ctx, b.state, "")
		if err != nil {
			t.Error(err)
			return
		}
		id = r.Job.String()
		info, err := os.Stat(filepath.Join(b.state, "jobs", id, control.SocketName))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v, %v", info, err)
		}
		for _, c := range []struct {
			stages map[string]int
			cause  string
		}{
			{map[string]int{flow.Seal: 3, flow.Indexer: 2}, "one journal"},
			{map[string]int{flow.Snapshot: 2}, "one lock"},
			{map[string]int{flow.Seal: 0}, "nobody"},
			{map[string]int{flow.Delta: 65}, "1 to 64"},
			{map[string]int{flow.Delta: -1}, "1 to 64"},
			{map[string]int{"sealer": 1}, "no stage"},
		} {
			_, err := r.Tune(ctx, control.Order{Stages: c.stages})
			var f *flow.Fault
			if !errors.As(err, &f) || f.Code != "usage" || !strings.Contains(f.Cause, c.cause) || f.Remedy == "" {
				t.Errorf("%v: %+v", c.stages, err)
			}
		}
	}
	s, err := Backup(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	if s.Finished.Settings["parallel.seal"] != "2" || s.Report.Scalings != 0 {
		t.Errorf("something was changed: %v", s.Finished.Settings)
	}
	if _, err := control.Find(t.Context(), b.state, id[:12]); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}
