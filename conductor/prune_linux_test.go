package conductor

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/prune"
	"github.com/millrace-backup/millrace/restore"
)

// pruner forgets and prunes beside a job, as the command line would.
type pruner struct {
	*bed
	t    *testing.T
	l    *ledger.Ledger
	work prune.Work
}

func (b *bed) pruner(t *testing.T) *pruner {
	l := b.ledger(t)
	job := id.NewJob()
	if _, err := l.Append(t.Context(), job, []events.Fact{events.JobStarted{Verb: prune.Verb}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	return &pruner{b, t, l, prune.Work{Vault: b.vault, Ledger: l, Job: job, Now: time.Now}}
}

func (p *pruner) state() *catalog.State {
	p.t.Helper()
	s, err := catalog.Fold(p.l.Records(p.t.Context(), 0))
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *pruner) forget(point id.Point) {
	p.t.Helper()
	if _, err := p.l.Append(p.t.Context(), id.Job{}, []events.Fact{events.PointForgotten{Point: point}}, nil, nil); err != nil {
		p.t.Error(err)
	}
}

func (p *pruner) look() *prune.Plan {
	p.t.Helper()
	plan, err := prune.Look(p.t.Context(), p.vault, p.state(), prune.Options{Sparse: 50, Scratch: filepath.Join(p.t.TempDir(), "rows"), Self: p.work.Job, Now: time.Now()})
	if err != nil {
		p.t.Error(err)
		return &prune.Plan{}
	}
	return plan
}

// delete deletes all that is due and returns how many retirements wait.
func (p *pruner) delete() int {
	p.t.Helper()
	s := p.state()
	due, waiting := prune.Due(s, time.Now(), p.work.Job)
	for _, r := range due {
		if err := p.work.Delete(p.t.Context(), s, r); err != nil {
			p.t.Error(err)
		}
	}
	return len(waiting)
}

// A guest is backed up whose chunks are all known from a point of another guest. That
// point is forgotten and pruned meanwhile. Whichever of the two the ledger has first,
// the new point is whole: a job that commits behind the retirement has stored again
// what it had found, and nothing was deleted under it; behind the commit nothing is
// retired that the point needs.
func TestPruneBesideAJob(t *testing.T) {
	for _, first := range []string{"retired", "committed"} {
		t.Run(first, func(t *testing.T) {
			b := newBed(t, 24<<20)
			_, old := b.backup(t, nil)
			text, err := os.ReadFile(b.image)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "clone.raw")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			p := b.pruner(t)
			var plan *prune.Plan
			var once sync.Once
			s, fresh := b.backup(t, func(o *Options) {
				if o.Guests, err = folder.New(path, folder.Options{Vault: b.vault.ID}).Inspect(t.Context()); err != nil {
					t.Fatal(err)
				}
				o.Started = func(stage string, _ uint32, _ int) {
					if stage != flow.Snapshot { // the last: all is planned
						return
					}
					once.Do(func() {
						p.forget(old.Point)
						if plan = p.look(); len(plan.Packs) == 0 || len(plan.Tables) == 0 {
							t.Errorf("nothing is to be retired: %+v", plan)
						}
						if first == "committed" {
							return
						}
						if _, err := p.work.Retire(t.Context(), plan); err != nil {
							t.Error(err)
						}
						if p.delete() != 1 {
							t.Error("what was retired does not wait for the job")
						}
					})
				}
			})
			if first == "retired" && s.Finished.NewBytes == 0 {
				t.Error("nothing was stored again")
			}
			if first == "committed" {
				if _, err := p.work.Retire(t.Context(), plan); !errors.Is(err, prune.ErrStale) {
					t.Errorf("retired behind a commit: %v", err)
				}
				again := p.look()
				if len(again.Packs) != 0 || s.Finished.NewBytes != 0 {
					t.Errorf("packs %v are to be retired, the point needs them", again.Packs)
				}
				if _, err := p.work.Retire(t.Context(), again); err != nil { // the old tables
					t.Error(err)
				}
			}
			before := len(b.objects(t, "packs"))
			if p.delete() != 0 {
				t.Error("something still waits")
			}
			if after := len(b.objects(t, "packs")); (after < before) != (first == "retired") {
				t.Errorf("%d packs, %d before", after, before)
			}
			if _, err := restore.Verify(t.Context(), b.vault, fresh.PointCommitted, restore.Options{ReadPercent: 100}); err != nil {
				t.Errorf("verify: %v", err)
			}
			if s, _ := b.backup(t, nil); s.Finished.ZeroBytes+s.Finished.KnownBytes != s.Finished.DiskBytes {
				t.Errorf("the first guest's next point, whose points are all forgotten, finds %+v", s.Finished)
			}
		})
	}
}
