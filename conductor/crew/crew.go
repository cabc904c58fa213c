// Package crew starts, watches and ends the worker processes of a job.
//
// A [Crew] is made with what it needs to know as exported fields. [Crew.Start]
// starts one worker of a stage; one that dies before it was asked to leave is
// replaced, at most 25 times a stage. [Crew.Scale] changes how many there are while
// they work. [Crew.Heard] takes in what workers say of
// themselves, [Crew.Stages] sums it up. A job that is done ends with [Crew.Drain],
// one that is not with [Crew.Dismiss]; both return when the last process has been
// waited for.
//
// Guarantees: the slots that a worker was filling are freed after the process has
// been waited for and never before, since one that still runs may still write. A
// worker is given the vault keys of its stage and no others, through a pipe. When
// this process dies, the workers' pipes end, and they leave.
package crew

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/muster"
	"github.com/millrace-backup/millrace/flow/pipe"
	"github.com/millrace-backup/millrace/vault"
	"go.uber.org/zap"
)

// maxRestarts is how often workers of one stage may die in a job. A stage that
// dies again and again has a reason that another try does not remove.
const maxRestarts = 25

// worker is one process.
type worker struct {
	stage   string
	number  uint32
	restart uint32
	cmd     *exec.Cmd
	control io.WriteCloser
	log     *os.File
	gone    chan struct{} // closed when it has been waited for
	leaving chan struct{} // closed when it is asked to leave

	mu       sync.Mutex
	peak     int64       // of its memory, as last seen
	status   flow.Status // the last it said
	heard    time.Time   // when it said it
	told     bool        // that it says nothing
	draining bool
}

// Crew is all workers of a job on this machine, those that have gone included.
type Crew struct {
	Command  []string // what to start for a stage; its name is appended
	Folder   string   // of the job: logs go to log/ in it
	Log      *zap.Logger
	Settings flow.Config // what all workers have in common
	Arena    *arena.Arena
	Keys     *vault.Keys
	Queue    Queue
	Host     string        // of this machine, for facts
	First    uint32        // workers' numbers begin above this one
	Mute     time.Duration // see Guard; 0: the constant of that name
	Depths   func(context.Context) map[string]uint64

	Note    func(events.Fact)                          // of each worker that comes and goes
	Stop    func(*flow.Fault)                          // the job cannot go on
	Started func(stage string, worker uint32, pid int) // may be nil

	mu      sync.Mutex
	last    uint32
	all     []*worker
	wanted  map[string]int // workers of each stage here
	most    map[string]int // that there were at one moment
	guests  []*visitor
	blocks  uint32    // of numbers given out
	guarded time.Time // when Guard last looked
	ending  bool      // the job is over: who leaves now is not replaced
	exits   sync.WaitGroup
}

// Queue lets workers in.
type Queue interface {
	Admit(c *flow.Config)
	Dismiss(stage string, worker uint32)
}

// Stage is how a stage stands; times and counts are those of all its workers
// that ever were.
type Stage struct {
	Stage     string
	Workers   int
	Wanted    int // here, when those that were asked to leave have left
	Most      int // that were here at one moment
	Processes int // that there ever were, here and elsewhere
	Elsewhere int // of the workers: on other machines
	Leaving   int // of the workers: they finish what they hold
	Restarts  int
	Queue     uint64
	flow.Status
}

// grants is which vault keys a stage is given.
func grants(stage string) vault.Part {
	switch stage {
	case flow.Snapshot:
		return vault.PartIDs // to compare blocks with those of the parent
	case flow.Chunker:
		return vault.PartIDs | vault.PartCut
	case flow.Delta:
		return vault.PartMeta
	case flow.Seal:
		return vault.PartData | vault.PartIDs
	case flow.Uploader:
		return vault.PartMeta | vault.PartData
	case flow.Indexer:
		return vault.PartMeta | vault.PartSign
	}
	return 0
}

// Start starts one worker more and watches it.
func (c *Crew) Start(stage string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want(stage, c.wanted[stage]+1)
	return c.start(stage, 0)
}

// start starts a worker; not one once the job is over. c.mu is held.
func (c *Crew) start(stage string, restart uint32) error {
	if c.ending {
		return nil
	}
	c.last++
	w := &worker{stage: stage, number: c.First + c.last, restart: restart, gone: make(chan struct{}), leaving: make(chan struct{}), heard: time.Now()}
	if err := c.spawn(w); err != nil {
		return fmt.Errorf("start a worker of %s: %w", stage, err)
	}
	c.all = append(c.all, w)
	c.most[stage] = max(c.most[stage], len(c.present(stage)))
	c.Log.Info("worker started", zap.String("stage", stage), zap.Uint32("worker", w.number), zap.Int("pid", w.cmd.Process.Pid), zap.Uint32("restart", restart))
	c.Note(events.StageStarted{
		Stage: stage, Worker: w.number, PID: w.cmd.Process.Pid, Host: c.Host, Restart: restart, Transport: c.Settings.Work.TransportOf(stage),
	})
	c.exits.Add(1)
	go c.wait(w)
	if c.Started != nil {
		c.Started(stage, w.number, w.cmd.Process.Pid)
	}
	return nil
}

func (c *Crew) spawn(w *worker) error {
	var err error
	name := filepath.Join(c.Folder, "log", fmt.Sprintf("%s-%d.log", w.stage, w.number))
	if w.log, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	defer w.log.Close() // the child has its own
	w.cmd = exec.Command(c.Command[0], append(slices.Clone(c.Command[1:]), w.stage)...)
	w.cmd.Stdout, w.cmd.Stderr = w.log, w.log
	w.cmd.Env = workerEnvironment()
	cfg := c.Settings
	cfg.Stage, cfg.Worker, cfg.Restart, cfg.Folder, cfg.Arena = w.stage, w.number, w.restart, c.Folder, c.Arena.Inherit(w.cmd)
	c.Queue.Admit(&cfg)
	if parts := grants(w.stage); parts != 0 {
		g, err := c.Keys.Grant(parts, cfg.Work.Domain)
		if err != nil {
			return err
		}
		cfg.Grant = g
	}
	if w.control, err = w.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := w.cmd.Start(); err != nil {
		return err
	}
	c.exits.Go(func() { c.tell(w, cfg) })
	return nil
}

// tell gives a worker its settings, and the word to leave when that is said. Settings
// of many disks are more than a pipe holds: a worker that does not take them keeps
// this goroutine and nobody else, until it is killed.
func (c *Crew) tell(w *worker, cfg flow.Config) {
	out := bufio.NewWriterSize(w.control, 64<<10)
	if err := errors.Join(pipe.Write(out, cfg), out.Flush()); err != nil {
		c.Log.Warn("settings not taken", zap.String("stage", w.stage), zap.Error(err))
		_ = w.cmd.Process.Kill() // if it has not died by itself: it would wait for ever
	}
	select {
	case <-w.leaving:
		_, _ = io.WriteString(w.control, flow.Drain+"\n") // a worker that is gone needs no telling
	case <-w.gone:
	}
}

// workerEnvironment is what a worker sees of ours: no secrets, and the settings
// of its runtime. One thread per worker is the unit that operators scale by; a
// worker's own heap is a few MiB, so collecting it rarely costs nothing; where it
// grows, as the indexer's does when it sorts, the limit has it collected more often
// instead of growing to five times what is in use.
func workerEnvironment() []string {
	env := []string{"GOMAXPROCS=1", "GOGC=400", "GOMEMLIMIT=64MiB", "GOTRACEBACK=single"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "SystemRoot", "USERPROFILE", "TEMP", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// wait waits for a worker's end. Only then are the slots it was filling freed.
func (c *Crew) wait(w *worker) {
	defer c.exits.Done()
	err := w.cmd.Wait()
	freed := c.Arena.Reap(w.number)
	c.Queue.Dismiss(w.stage, w.number)
	expected := w.lastWords(err)
	close(w.gone)
	account := w.stopped(err)
	c.Log.Info("worker gone", zap.Int("freed", freed), zap.Any("account", account), zap.Error(err))
	c.Note(account)
	if err := c.replace(w, err, expected); err != nil {
		c.Stop(flow.AsFault(err, w.stage))
	}
}

// lastWords waits a moment for the report of a worker that left in good order,
// which comes by another way than its exit, and reports whether it did.
func (w *worker) lastWords(err error) bool {
	for range 50 {
		w.mu.Lock()
		draining, final := w.draining, w.status.Final
		w.mu.Unlock()
		if err != nil || !draining {
			return false
		}
		if final {
			return true
		}
		time.Sleep(2 * time.Millisecond)
	}
	return true
}

// stopped is the account of a worker's life.
func (w *worker) stopped(err error) events.StageStopped {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	f := events.StageStopped{
		Stage: w.stage, Worker: w.number, PID: w.cmd.Process.Pid, Exit: "ok", BusyNS: s.BusyNS, StarvedNS: s.StarvedNS, BlockedNS: s.BlockedNS,
		InParcels: s.InParcels, OutParcels: s.OutParcels, InBytes: s.InBytes, OutBytes: s.OutBytes,
		Redelivered: s.Redelivered, Stale: s.Stale, Restarts: w.restart, MaxRSS: w.peak,
	}
	if err != nil {
		f.Exit = err.Error()
	}
	if p := w.cmd.ProcessState; p != nil {
		f.CPUNS = int64(p.UserTime() + p.SystemTime())
		w.status.CPUNS = f.CPUNS // what it said last may be older
	}
	return f
}

// Heard enters a worker's report. It is also the moment to look at its memory,
// which nobody can once it has gone.
func (c *Crew) Heard(s flow.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.all {
		if w.number == s.Worker && w.stage == s.Stage {
			w.mu.Lock()
			if before := w.status.Waits; before == "" && s.Waits != "" {
				c.Log.Warn("worker waits for the vault", zap.String("stage", s.Stage), zap.Uint32("worker", s.Worker), zap.String("cause", s.Waits))
			} else if before != "" && s.Waits == "" {
				c.Log.Info("worker goes on", zap.String("stage", s.Stage), zap.Uint32("worker", s.Worker))
			}
			w.status, w.heard = s, time.Now()
			w.peak = max(w.peak, peak(w.cmd.Process.Pid))
			w.mu.Unlock()
			return
		}
	}
	if s.Worker >= muster.FirstBlock {
		c.meet(s)
	}
}

// Drain stops the workers, sources first, and waits for each stage in turn until
// it has dropped the duplicates that a killed neighbour may have left in its
// queue. Who does not leave in time is killed: all that counts is durable by now.
func (c *Crew) Drain(ctx context.Context) {
	c.mu.Lock()
	c.ending = true
	all := slices.Clone(c.all)
	c.mu.Unlock()
	for _, stage := range flow.Stages() {
		for since := time.Now(); c.Depths(ctx)[stage] > 0 && time.Since(since) < 3*flow.AckWait; {
			time.Sleep(5 * time.Millisecond)
		}
		for _, w := range all {
			if w.stage == stage {
				w.leave()
			}
		}
		for _, w := range all {
			if w.stage == stage {
				w.await(5 * time.Second)
			}
		}
	}
	c.exits.Wait()
}

func (w *worker) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.draining {
		w.draining = true
		close(w.leaving)
	}
}

func (w *worker) await(patience time.Duration) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-w.gone:
	case <-t.C:
		_ = w.cmd.Process.Kill()
		<-w.gone
	}
}

// Dismiss ends all workers at once by closing their control pipes. Only the
// indexer, once the others are gone, is asked to leave in order: it writes down
// which packs are durable, so that the next job finds what is in them.
func (c *Crew) Dismiss() {
	c.mu.Lock()
	c.ending = true
	all := slices.Clone(c.all)
	c.mu.Unlock()
	for _, w := range all {
		if w.stage != flow.Indexer {
			_ = w.control.Close()
		}
	}
	for _, w := range all {
		if w.stage != flow.Indexer {
			w.await(3 * time.Second)
		}
	}
	for _, w := range all {
		if w.stage == flow.Indexer {
			c.settle(w)
			w.leave()
			w.await(5 * time.Second)
		}
	}
	c.exits.Wait()
}

// settle gives a worker a moment to take in what its queue holds.
func (c *Crew) settle(w *worker) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.Depths(ctx)[w.stage] > 0 {
		select {
		case <-ctx.Done():
			return
		case <-w.gone:
			return
		case <-tick.C:
		}
	}
}

// Stages sums up the stages, in flow order. queued is how much waits for each.
func (c *Crew) Stages(queued map[string]uint64) (out []Stage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, stage := range flow.Stages() {
		u := Stage{Stage: stage, Queue: queued[stage], Wanted: c.wanted[stage], Most: c.most[stage]}
		u.Status.Stage = stage
		for _, w := range c.all {
			if w.stage == stage {
				u.add(w)
			}
		}
		for _, v := range c.guests {
			if v.status.Stage == stage {
				u.visit(v)
			}
		}
		out = append(out, u)
	}
	return out
}

func (u *Stage) add(w *worker) {
	gone := false
	select {
	case <-w.gone:
		gone = true
	default:
		u.Workers++
	}
	if w.restart > 0 {
		u.Restarts++
	}
	w.mu.Lock()
	s, leaving := w.status, w.draining
	w.mu.Unlock()
	switch {
	case gone:
		s.Held = 0 // what a killed one held is with others
	case leaving:
		u.Leaving++
	}
	u.PID = w.cmd.Process.Pid
	if !gone && s.Waits != "" {
		u.Waits = s.Waits
	}
	u.sum(s)
}

// sum adds what one worker has said to what its stage has done.
func (u *Stage) sum(s flow.Status) {
	u.Processes++
	u.Held += s.Held
	u.BusyNS += s.BusyNS
	u.StarvedNS += s.StarvedNS
	u.BlockedNS += s.BlockedNS
	u.InParcels += s.InParcels
	u.OutParcels += s.OutParcels
	u.InBytes += s.InBytes
	u.OutBytes += s.OutBytes
	u.Redelivered += s.Redelivered
	u.Stale += s.Stale
	u.CPUNS += s.CPUNS
}
