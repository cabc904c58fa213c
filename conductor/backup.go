package conductor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/catalog/points"
	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/catalog/spool"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/conductor/logfile"
	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/stages/indexer"
	"github.com/millrace-backup/millrace/stages/snapshot"
	"go.uber.org/zap"
)

// job is a backup while it runs.
type job struct {
	id      id.Job
	o       *Options
	log     *zap.Logger
	folder  string
	work    flow.Work
	started time.Time
	queue   *queue.Queue
	arena   *arena.Arena
	crew    *crew.Crew
	leaked  int // slots in use after the workers had left
	index   known.Index
	guard   ledger.Guard // of what the conductor itself appends
	holder  *lease.Holder
	unlock  func()
	board   board.Board
	desk    *control.Server        // nil: nobody can watch
	before  map[id.Guest]time.Time // when the guests' newest points were taken that others made
	taken   map[id.Point]time.Time // the same of this job's points

	tuning   sync.Mutex // of these, and of o.Parallel once workers are there
	phase    string
	scalings int

	mu       sync.Mutex
	progress indexer.Progress
	pending  []events.Fact // of the conductor's own, not yet in the ledger
	fault    *flow.Fault   // why the job must stop
	over     chan struct{} // closed when every guest is settled, or the job must stop
	overOnce sync.Once
	changed  chan struct{} // something to tell
}

// Backup runs a job to its end. The summary is complete whenever JobStarted could
// be written; the error is the *flow.Fault that stopped the job, if one did: a
// guest that failed alone is in the summary.
func Backup(ctx context.Context, o Options) (Summary, error) {
	if err := o.Fill(); err != nil {
		return Summary{}, err
	}
	j := &job{id: id.NewJob(), o: &o, started: o.Now(), over: make(chan struct{}), changed: make(chan struct{}, 1)}
	j.folder = filepath.Join(o.State, "jobs", j.id.String())
	if err := os.MkdirAll(filepath.Join(j.folder, "log"), 0o700); err != nil {
		f := flow.AsFault(err, "conductor")
		f.Op, f.Object = "make the job's folder", j.folder
		return Summary{}, f
	}
	log, err := logfile.New(filepath.Join(j.folder, "log", "conductor.log"))
	if err != nil {
		return Summary{}, err
	}
	defer func() { _ = log.Sync() }()
	j.log = log.With(zap.Stringer("job", j.id))
	defer j.cleanUp()
	if err := j.begin(ctx); err != nil {
		return Summary{}, err
	}
	defer j.release(ctx)
	j.attend()
	s, err := j.proceed(ctx)
	j.close(&s, err)
	return s, err
}

// proceed does the job, once it is in the ledger.
func (j *job) proceed(ctx context.Context) (Summary, error) {
	if err := j.prepare(ctx); err != nil {
		j.stop(j.reason(ctx, err))
	} else if len(j.o.Guests) > 0 {
		if err := j.run(ctx); err != nil {
			j.stop(flow.AsFault(err, "conductor"))
		}
		if j.stopped() == nil {
			j.heal(ctx)
		}
	}
	return j.finish(ctx)
}

// heal has points that were found damaged read what this job has stored again. What
// goes wrong with that is no reason to call the backup anything but done: the points
// stay marked, and the next job tries it too.
func (j *job) heal(ctx context.Context) {
	done, err := known.Heal(ctx, heal.Work{Vault: j.o.Vault, Ledger: j.o.Ledger, Job: j.id, Domain: j.work.Domain}, j.o.Catalog, j.o.Index)
	if err != nil || done.Tables+done.Left > 0 {
		j.log.Info("damaged points", zap.Int("chunks healed", done.Chunks), zap.Int("left", done.Left), zap.Int("tables", done.Tables), zap.Error(err))
	}
}

// plan lists guests and disks with the points they are compared with.
func (j *job) plan(ctx context.Context) {
	o := j.o
	j.work = flow.Work{
		Vault: o.Location, VaultID: o.Vault.ID, Domain: o.domain(), OwnDomain: o.Domain, Codec: o.Codec, ParcelSize: o.ParcelSize,
		CellSize: o.Vault.Config.CellSize, Freeze: o.Freeze, Scan: o.Scan, Set: o.Set, Host: o.Host,
		Transport: o.Transport, Remote: o.Remote, WaitIO: o.WaitIO, WaitGone: o.WaitGone, Limits: o.Limits, Ledger: filepath.Join(j.folder, "ledger"), Position: j.guard.Next,
		Fleece: o.Fleece, Granularity: o.Granularity, GuestLatency: o.GuestLatency,
		Sidecars: filepath.Join(o.State, "cache", o.Vault.ID.String(), sidecar.Folder),
	}
	if d, ok := o.Vault.Config.Domain(j.work.Domain); ok {
		j.work.Cutter = d.Cutter
	} else if d := o.Catalog.Domains[j.work.Domain]; d != nil {
		j.work.Cutter = d.Cutter()
	}
	for n, g := range o.Guests {
		wg := flow.WorkGuest{ID: g.ID, Name: g.Name, Driver: g.Driver, Source: g.Source, Config: g.Config}
		for _, u := range g.Unprotected {
			wg.Unprotected = append(wg.Unprotected, events.Unprotected{Key: u.Key, Reason: u.Reason})
		}
		var disks []events.DiskInfo
		for _, d := range g.Disks {
			disks = append(disks, snapshot.InfoOf(d))
		}
		var old []*events.PointDisk
		wg.Parent, old, wg.ScanReason = j.parent(ctx, g, disks)
		cells, err := known.Cells(ctx, o.Vault, old, j.work.Withdrawn)
		if err != nil {
			wg.Parent, wg.ScanReason = id.Point{}, fmt.Sprintf("what of the parent is damaged cannot be told: %v", err)
			old, cells = make([]*events.PointDisk, len(disks)), make([][]int64, len(disks))
		}
		var with events.PointCommitted
		if p := known.Point(o.Catalog, g.ID, o.Parents[g.ID]); p != nil {
			with = p.PointCommitted
		}
		for i, d := range disks {
			j.work.Disks = append(j.work.Disks, flow.WorkDisk{Guest: uint32(n), Info: d, Parent: old[i], Uncompared: cells[i], Since: points.Since(&with, d.Disk)})
		}
		j.work.Guests = append(j.work.Guests, wg)
		if p := o.Catalog.Points[wg.Parent]; p != nil {
			j.work.Guests[n].ScanReason += sidecar.Uncompared(&j.work, uint32(n), &p.PointCommitted)
		}
	}
}

// run starts everything, waits until every guest is settled, and stops
// everything. What it returns is why the job could not go on.
func (j *job) run(ctx context.Context) error {
	var err error
	var bytes int64
	for _, d := range j.work.Disks {
		bytes += d.Info.VirtualSize
	}
	if j.arena, err = arena.New(j.o.room().Shape(j.o.ParcelSize, bytes)); err != nil {
		f := flow.AsFault(err, "conductor")
		f.Op, f.Object = "make the arena", "shared memory"
		f.Remedy = "allow this account more memory and larger files (cgroup, ulimit -f), or ask for less with --memory"
		return f
	}
	if j.o.NATS.URL != "" {
		j.queue, err = queue.Reach(ctx, j.o.NATS, j.id, &j.work)
	} else {
		j.queue, err = queue.Start(ctx, j.id, &j.work, filepath.Join(j.folder, "nats"))
	}
	if err != nil {
		return err
	}
	j.crew = &crew.Crew{
		Command: j.o.Command, Folder: j.folder, Log: j.log, Settings: flow.Config{Job: j.id, Work: j.work}, Arena: j.arena, Keys: j.o.Vault.Keys,
		Queue: j.queue, Host: j.o.Host, Depths: j.queue.Hub.Depths, Note: j.note, Stop: j.stop, Started: j.o.Started, Mute: j.o.mute,
	}
	if err := j.listen(); err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var watchers sync.WaitGroup
	watchers.Go(func() { j.watch(watching) })
	watchers.Go(func() { j.followFacts(watching) })
	watchers.Go(func() { j.followOthers(watching) })
	if j.queue.Elsewhere() {
		j.invite(watching, &watchers)
	}
	if j.o.joined != nil {
		watchers.Go(func() { j.o.joined(watching, j.queue) })
	}
	defer func() { stopWatching(); watchers.Wait() }()
	for i := len(flow.Stages()) - 1; i >= 0; i-- { // sinks first: nobody emits into nothing
		stage := flow.Stages()[i]
		for range j.o.Parallel[stage] {
			if err := j.crew.Start(stage); err != nil {
				j.crew.Dismiss()
				return err
			}
		}
	}
	j.enter(board.Running)
	select {
	case <-j.over:
	case <-ctx.Done():
		j.stop(j.reason(ctx, ctx.Err()))
	}
	j.enter(board.Ending)
	if j.stopped() != nil {
		j.crew.Dismiss()
	} else {
		j.crew.Drain(ctx) // sources first
	}
	j.crew.Look(time.Now(), true)
	for _, pool := range []arena.Pool{arena.Raw, arena.Sealed} {
		_, filling, full := j.arena.Usage(pool)
		j.leaked += filling + full
	}
	if j.leaked > 0 {
		j.log.Warn("slots left in use", zap.Int("slots", j.leaked))
	}
	return nil
}

// listen takes in what workers say of themselves.
func (j *job) listen() error {
	status := func(s flow.Status) {
		j.crew.Heard(s)
		if s.Fault != nil && s.Fault.Class != flow.Park {
			j.stop(j.otherVault(s.Fault))
		}
	}
	return j.queue.Hub.Listen(status, func(b []byte) {
		var p indexer.Progress
		if events.Unmarshal(b, &p) != nil || len(p.Guests) != len(j.work.Guests) {
			return
		}
		j.mu.Lock()
		j.progress = p
		j.mu.Unlock()
		if p.Final {
			j.overOnce.Do(func() { close(j.over) })
		}
	})
}

// stop makes the job end for a reason. The first reason counts.
func (j *job) stop(f *flow.Fault) {
	j.mu.Lock()
	if j.fault == nil {
		j.fault = f
	}
	j.mu.Unlock()
	j.overOnce.Do(func() { close(j.over) })
}

func (j *job) stopped() *flow.Fault {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fault
}

// note keeps a fact of the conductor's own for the next segment.
func (j *job) note(f events.Fact) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pending = append(j.pending, f)
}

// watch observes a few times a second, and writes down what has gathered.
func (j *job) watch(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	wrote := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		j.crew.Look(time.Now(), false)
		if time.Since(wrote) > 10*time.Second {
			wrote = time.Now()
			j.writeDown(ctx)
		}
		queued := j.queue.Hub.Depths(ctx)
		j.crew.Guard(time.Now(), queued)
		u := j.look(true, queued)
		if j.o.Observe != nil {
			j.o.Observe(u)
		}
		if n++; j.desk != nil && n%4 == 0 {
			j.desk.Publish(u.Report)
		}
	}
}

// writeDown appends what the conductor itself has to say. On an error it is kept
// and said later: the indexer notices first that a vault is gone.
func (j *job) writeDown(ctx context.Context) {
	j.mu.Lock()
	facts := j.pending
	j.pending = nil
	j.mu.Unlock()
	if len(facts) == 0 {
		return
	}
	// A put that is cut short may have happened: the end of the watch is no
	// reason to cut it, or the same facts would be written again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, err := j.o.Ledger.AppendGuarded(ctx, j.id, &j.guard, facts, nil, nil)
	if errors.Is(err, ledger.ErrFenced) {
		j.stop(flow.AsFault(flow.VaultFault("append to the ledger", j.o.Location, err), "conductor"))
	}
	if err != nil {
		j.log.Warn("facts wait", zap.Error(err))
		j.mu.Lock()
		j.pending = append(facts, j.pending...)
		j.mu.Unlock()
	}
}

// followFacts passes on facts as they enter the ledger, from the live copy; where
// that has a gap, from the vault.
func (j *job) followFacts(ctx context.Context) {
	if j.o.Fact == nil {
		return
	}
	tell := func(facts iter.Seq2[events.Record, error], at uint64) uint64 {
		for r, err := range facts {
			if err == nil {
				j.passOn(r)
				at = r.Position + 1
			}
		}
		return at
	}
	live, pause := j.queue.Hub.Live(), 50*time.Millisecond
	for at := j.work.Position; ctx.Err() == nil; {
		if j.queue.Elsewhere() {
			pause = time.Second // there is no live copy
		} else {
			at = tell(live.Follow(ctx, at), at)
		}
		at = tell(j.o.Ledger.Records(ctx, at), at)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// passOn tells of a fact, if it is the job's own: others work on the vault too.
func (j *job) passOn(r events.Record) {
	if r.Job == j.id {
		j.o.Fact(r)
	}
}

// cleanUp removes what only the running job needed. Logs stay. The mark of a job
// that lives goes last: should it die here, the next one sees that and does the rest.
func (j *job) cleanUp() {
	if j.unlock != nil {
		defer j.unlock()
	}
	if j.queue != nil {
		j.queue.Close()
	}
	var errs []error
	if j.arena != nil {
		errs = append(errs, j.arena.Close())
	}
	for _, name := range []string{"nats", "ledger", "index", control.SocketName, known.OthersFolder, "indexer.journal", "indexer", spool.StoredFolder, sidecar.Folder, pace.Path("", flow.Reader), pace.Path("", flow.Uploader)} {
		errs = append(errs, os.RemoveAll(filepath.Join(j.folder, name)))
	}
	freezes, _ := filepath.Glob(filepath.Join(j.folder, "freeze-*.json"))
	for _, f := range freezes {
		errs = append(errs, os.Remove(f))
	}
	if err := errors.Join(errs...); err != nil {
		j.log.Warn("clean up", zap.Error(err))
	}
}

// hashed is what the catalog of all facts so far looks like, for the ledger.
func (j *job) hashed(ctx context.Context) (events.Fact, error) {
	s := j.o.Catalog
	if err := s.CatchUp(j.o.Ledger.Records(ctx, s.Next)); err != nil {
		return nil, err
	}
	_, size, _ := j.o.Ledger.Head()
	return s.Hashed(size), nil
}
