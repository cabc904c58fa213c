package keep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/bydomain"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/prune"
)

type pruneOptions struct {
	dryRun  bool
	full    bool
	sparse  int
	margin  time.Duration
	version string
}

// Prune is the verb prune of a program of this version.
func Prune(app *session.App, version string) *cobra.Command {
	a := verb{app}
	o := pruneOptions{version: version}
	c := &cobra.Command{
		Use:   "prune",
		Short: "Give back the space of forgotten points",
		Long: `Give back the space of what no point needs any more.

It takes two steps. First, packs and tables that no listed point names are retired:
the ledger says that nobody may begin to need them. Then, in a later run, they are
deleted: when every job and every reader that began before has ended, and --margin is
over, for readers that cannot write to the vault and so cannot say that they are
there. A run of prune deletes what earlier runs have retired. Jobs that died and hold
something back are fenced first.

With --sparse 50, packs of which less than 50 % is needed are retired too, after what
is needed has been copied elsewhere. That writes tables of points once more. The copies
of points that recover goes by if a vault has lost its whole ledger and its catalog
snapshots name the tables from before, which are deleted then. So nothing is moved
unless this is asked for.

It looks at what has been forgotten since the last time; --full looks at the whole
vault, and at what jobs that died have left behind.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.prune(c.Context(), o) },
	}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be done")
	f.BoolVar(&o.full, "full", false, "look at all packs, tables and objects, not only at what was forgotten")
	f.IntVar(&o.sparse, "sparse", 0, "move what is needed of packs of which less than this percentage is needed; 0: packs are not moved")
	f.DurationVar(&o.margin, "margin", prune.Margin, "how long what this run retires stays for readers that cannot write")
	return c
}

// pruned is what a run did, or would do.
type pruned struct {
	Type          string        `json:"type"`
	DryRun        bool          `json:"dry_run"`
	RetiredPacks  int           `json:"retired_packs"`
	RetiredTables int           `json:"retired_tables"`
	RetiredBytes  int64         `json:"retired_bytes"` // that deleting them gives back
	MovedPacks    int           `json:"moved_packs"`   // of the retired ones
	MovedBytes    int64         `json:"moved_bytes"`   // what was needed of them
	DeletedBytes  int64         `json:"deleted_bytes"`
	WaitingBytes  int64         `json:"waiting_bytes"` // retired, and not deleted yet
	Waiting       []waitingJSON `json:"waiting"`
	HeldPoints    int           `json:"held_points"` // forgotten ones that a running job may build upon
	ReadTables    int           `json:"read_tables"`
	ReadIndexes   int           `json:"read_indexes"`
	ReadBytes     int64         `json:"read_bytes"` // of tables and indexes, to find all this
	Position      uint64        `json:"position"`
	Checkpoint    uint64        `json:"checkpoint"`
	Duration      float64       `json:"duration_s"`
}

type waitingJSON struct {
	Position uint64     `json:"position"`
	Bytes    int64      `json:"bytes"`
	Until    *time.Time `json:"until,omitempty"`
	Jobs     []id.Job   `json:"jobs"`
	Readers  []string   `json:"readers"`
}

func (a verb) prune(ctx context.Context, o pruneOptions) error {
	if o.sparse < 0 || o.sparse > 100 || o.margin < 0 {
		return fault.Usage("--sparse is a percentage, --margin not below zero")
	}
	start := a.Now()
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	s, err := v.Now(ctx)
	if err == nil && !o.dryRun {
		err = bydomain.Sweep(ctx, a.App, v)
	}
	if err != nil {
		return err
	}
	scratch, done, err := scratchFile(v)
	if err != nil {
		return err
	}
	defer done()
	look := prune.Options{Full: o.full, Sparse: o.sparse, Scratch: scratch, Now: a.Now(), Salvage: o.margin}
	plan, err := prune.Look(ctx, v.Vault, s, look)
	if err != nil {
		return fault.At("look for what is not needed in vault", v.Location, err)
	}
	for _, name := range plan.Strange {
		a.Note("millrace: %s has no name that an object of a vault has; it is left alone", session.Plain(name))
	}
	due, waiting := prune.Due(s, a.Now(), id.Job{})
	out := pruned{Type: "summary", DryRun: o.dryRun, HeldPoints: plan.Held}
	out.read(plan)
	if o.dryRun {
		out.RetiredPacks, out.RetiredTables, out.RetiredBytes = len(plan.Packs)+len(plan.Sparse), len(plan.Tables), plan.Bytes()
		out.MovedPacks = len(plan.Sparse)
		for _, p := range plan.Sparse {
			out.MovedBytes += p.Needed
		}
		for _, r := range due {
			out.DeletedBytes += r.Bytes
		}
	} else if !plan.Empty() || len(plan.Holders) > 0 || len(due) > 0 || slices.ContainsFunc(waiting, onlyJobs) {
		r := pruner{verb: a, o: o, v: v, plan: plan, look: look, out: &out, start: start}
		if err := r.run(ctx); err != nil {
			return fault.At("prune vault", v.Location, err)
		}
	}
	if s, err = v.Now(ctx); err != nil {
		return err
	}
	_, waiting = prune.Due(s, a.Now(), id.Job{})
	out.Duration = a.Now().Sub(start).Seconds()
	a.printPruned(out, waiting)
	return nil
}

// onlyJobs: a dead job may be all that something waits for.
func onlyJobs(w prune.Waiting) bool { return w.Until.IsZero() && len(w.Pins) == 0 && len(w.Jobs) > 0 }

// pruner is a prune that writes. It is a job, so that others see what it stores.
type pruner struct {
	verb
	o     pruneOptions
	v     *session.Vault
	plan  *prune.Plan // the first
	look  prune.Options
	out   *pruned
	start time.Time
	work  prune.Work
	guard ledger.Guard

	passed []string // sparse packs that stay, and why
}

// maxRounds bounds how often a run looks again: after it was overtaken, and for what
// one plan has no room for.
const maxRounds = 50

func (r *pruner) run(ctx context.Context) (err error) {
	job := id.NewJob()
	r.look.Self = job
	r.work = prune.Work{Vault: r.v.Vault, Ledger: r.v.Ledger, Job: job, Margin: r.o.margin, Now: r.Now}
	holder, err := lease.Hold(ctx, r.v.Store, job, lease.Times{})
	if err != nil {
		return err
	}
	// A crash from here on leaves heartbeats that stop: the next run fences the job.
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		holder.End(late)
	}()
	number, _ := holder.Last()
	host, _ := os.Hostname()
	_, size, _ := r.v.Ledger.Head()
	started := events.JobStarted{Verb: prune.Verb, Host: host, PID: os.Getpid(), Version: r.o.version, OS: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.NumCPU(), By: session.User(), Size: size, Lease: number, Settings: map[string]string{
			"full": fmt.Sprint(r.o.full), "sparse": fmt.Sprint(r.o.sparse), "margin": r.o.margin.String()}}
	at, err := r.v.Ledger.Append(ctx, job, []events.Fact{started}, nil, nil)
	if err != nil {
		return err
	}
	r.guard = ledger.Guard{Job: job, Next: at}
	err = r.retire(ctx)
	if err == nil || errors.Is(err, prune.ErrNotMoved) && ctx.Err() == nil {
		err = errors.Join(err, r.delete(ctx))
	}
	end := events.JobFinished{Outcome: "done", DurationNS: r.Now().Sub(r.start).Nanoseconds()}
	switch {
	case ctx.Err() != nil:
		end.Outcome, end.Cause = "interrupted", ctx.Err().Error()
	case err != nil:
		end.Outcome, end.Cause = "failed", err.Error()
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	// No guard: that a job which was fenced has ended is worth knowing.
	where, endErr := r.Decide(late, r.v, job, nil, end)
	r.out.Position, r.out.Checkpoint = where.Position, where.Checkpoint
	return errors.Join(err, endErr)
}

// retire retires what can be found, until nothing is left. Moving that fails keeps
// nothing else from being retired, and is told at the end.
func (r *pruner) retire(ctx context.Context) error {
	if r.plan != nil && len(r.plan.Holders) > 0 {
		s, err := r.v.Now(ctx)
		if err != nil {
			return err
		}
		if err := r.bury(ctx, s, r.plan.Holders); err != nil {
			return err
		}
		r.plan = nil // it is looked again, without those that had died
	}
	var notMoved error
	for range maxRounds {
		plan, err := r.next(ctx)
		if err != nil {
			return errors.Join(notMoved, err)
		}
		if plan.Empty() {
			break
		}
		did, err := r.work.Retire(ctx, plan)
		r.out.RetiredPacks += did.Packs
		r.out.RetiredTables += did.Tables
		r.out.RetiredBytes += did.Bytes
		r.out.MovedPacks += did.Moved
		r.out.MovedBytes += did.MovedBytes
		r.pass(did.Passed)
		switch {
		case errors.Is(err, prune.ErrStale):
			continue
		case errors.Is(err, prune.ErrNotMoved) && ctx.Err() == nil:
			notMoved, r.look.Sparse = err, 0
			continue
		case err != nil:
			return errors.Join(notMoved, err)
		}
		if did.Packs+did.Tables == 0 {
			break // what is left is damaged
		}
	}
	// Signed before anything is deleted: an object may only be missing when whoever
	// has no password can see who retired it.
	_, err := r.v.Ledger.Checkpoint(ctx)
	return errors.Join(notMoved, err)
}

// pass tells once of each sparse pack that stays.
func (r *pruner) pass(why []error) {
	for _, err := range why {
		if text := err.Error(); !slices.Contains(r.passed, text) {
			r.passed = append(r.passed, text)
			r.Note("millrace: left as it is: %s; millrace verify says which points need it", session.Plain(text))
		}
	}
}

// next is what to retire: what was found before the job began, then what is left.
func (r *pruner) next(ctx context.Context) (plan *prune.Plan, err error) {
	if plan, r.plan = r.plan, nil; plan != nil {
		return plan, nil
	}
	s, err := r.v.Now(ctx)
	if err != nil {
		return nil, err
	}
	r.look.Now = r.Now()
	if plan, err = prune.Look(ctx, r.v.Vault, s, r.look); err == nil {
		r.out.HeldPoints = plan.Held
	}
	return plan, err
}

// delete deletes what was retired long enough ago.
func (r *pruner) delete(ctx context.Context) error {
	s, err := r.v.Now(ctx)
	if err != nil {
		return err
	}
	_, waiting := prune.Due(s, r.Now(), r.work.Job)
	if err := r.bury(ctx, s, waitedFor(waiting)); err != nil {
		return err
	}
	if s, err = r.v.Now(ctx); err != nil {
		return err
	}
	if _, err := r.v.Ledger.Checkpoint(ctx); err != nil {
		return err
	}
	due, _ := prune.Due(s, r.Now(), r.work.Job)
	for _, d := range due {
		if err := r.work.Delete(ctx, s, d); err != nil {
			return err
		}
		r.out.DeletedBytes += d.Bytes
	}
	return nil
}

// waitedFor are the jobs that something retired waits for and for nothing else.
func waitedFor(waiting []prune.Waiting) (jobs []*catalog.Job) {
	for _, w := range waiting {
		if !onlyJobs(w) {
			continue
		}
		for _, j := range w.Jobs {
			if !slices.Contains(jobs, j) {
				jobs = append(jobs, j)
			}
		}
	}
	return jobs
}

// bury fences those of some jobs that have died.
func (r *pruner) bury(ctx context.Context, s *catalog.State, jobs []*catalog.Job) error {
	if len(jobs) == 0 {
		return nil
	}
	host, _ := os.Hostname()
	claims := lease.Claims{Job: r.work.Job, Store: r.v.Store, Ledger: r.v.Ledger, Catalog: s, Guard: &r.guard,
		Waiting: func(j *catalog.Job) {
			r.Note("waiting to see whether job %s of host %s is running: what it may need is not given back before it has ended", j.ID, session.Plain(j.Started.Host))
		},
		Died: func(j *catalog.Job) bool {
			return j.Started.Host == host && lease.FolderDied(filepath.Join(r.Settings.State, "jobs", j.ID.String()))
		}}
	_, err := claims.Bury(ctx, jobs)
	return err
}

func (p *pruned) read(plan *prune.Plan) {
	p.ReadTables, p.ReadIndexes, p.ReadBytes = plan.Read.Forgotten+plan.Read.Tables, plan.Read.Indexes, plan.Read.Bytes
}

func (a verb) printPruned(out pruned, waiting []prune.Waiting) {
	out.Waiting = []waitingJSON{}
	for _, w := range waiting {
		j := waitingJSON{Position: w.Position, Bytes: w.Bytes, Jobs: []id.Job{}, Readers: []string{}}
		if !w.Until.IsZero() {
			until := w.Until.UTC()
			j.Until = &until
		}
		for _, each := range w.Jobs {
			j.Jobs = append(j.Jobs, each.ID)
		}
		for _, p := range w.Pins {
			j.Readers = append(j.Readers, fmt.Sprintf("%s on %s, process %d", p.Purpose, p.Host, p.PID))
		}
		out.Waiting = append(out.Waiting, j)
		out.WaitingBytes += w.Bytes
	}
	if a.Settings.JSON {
		a.PrintJSON(out)
		return
	}
	retired, deleted := "retired", "deleted"
	if out.DryRun {
		retired, deleted = "would retire", "would delete"
	}
	fmt.Fprintf(a.Stdout, "%s %d packs and %d tables: %s\n", retired, out.RetiredPacks, out.RetiredTables, session.Size(out.RetiredBytes))
	if out.MovedPacks > 0 {
		fmt.Fprintf(a.Stdout, "  %d of these packs were sparse: %s of them lies elsewhere then\n", out.MovedPacks, session.Size(out.MovedBytes))
	}
	if out.HeldPoints > 0 {
		fmt.Fprintf(a.Stdout, "  left what %d forgotten points name: a running job may build upon them\n", out.HeldPoints)
	}
	fmt.Fprintf(a.Stdout, "%s what was retired before: %s\n", deleted, session.Size(out.DeletedBytes))
	for _, w := range out.Waiting {
		fmt.Fprintf(a.Stdout, "waiting: %s, retired at position %d", session.Size(w.Bytes), w.Position)
		if w.Until != nil {
			fmt.Fprintf(a.Stdout, ", until %s", w.Until.Local().Format(time.DateTime))
		}
		for _, j := range w.Jobs {
			fmt.Fprintf(a.Stdout, ", for job %s", j)
		}
		for _, text := range w.Readers {
			fmt.Fprintf(a.Stdout, ", for %s", session.Plain(text))
		}
		fmt.Fprintln(a.Stdout)
	}
}
