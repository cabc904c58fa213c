package flow

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Worker is one process's place in the flow: its queue, its arena, its account.
// Receiving is for one goroutine; the rest may be used from several.
type Worker struct {
	Config Config
	Arena  *arena.Arena
	Meter  Meter

	nc       *nats.Conn
	js       jetstream.JetStream
	consumer jetstream.Consumer
	queue    chan *Delivery
	room     chan struct{} // one for each free place in queue

	mu   sync.Mutex
	held map[*Delivery]struct{} // everything received and not yet settled: heartbeats go out for these
	lost error

	receiving context.Context // over when the conductor asks us to leave, or at Close
	drain     context.CancelFunc
	beating   context.Context // over at Close
	still     context.CancelFunc
	loops     sync.WaitGroup // what touches the arena or the connection by itself
}

// Prefetch is how many messages a worker asks for ahead of need. More only makes
// a killed worker take more parcels with it.
const Prefetch = 3

// Connect joins the flow as cfg says. control is the rest of standard input: its
// end is the conductor's death, and then the process leaves at once, because
// whatever it would still do nobody can account for.
func Connect(ctx context.Context, cfg Config, control *bufio.Reader) (*Worker, error) {
	mem, err := arena.Open(os.NewFile(uintptr(cfg.Arena), "arena"))
	if err != nil {
		return nil, err
	}
	w, err := join(ctx, cfg, mem)
	if err != nil {
		return nil, errors.Join(err, mem.Close())
	}
	w.Meter.begin(time.Now())
	w.loops.Go(w.receive)
	w.loops.Go(w.beat)
	go w.listen(control)
	w.report(false)
	return w, nil
}

func join(ctx context.Context, cfg Config, mem *arena.Arena) (*Worker, error) {
	nc, err := nats.Connect(cfg.URL, nats.UserInfo(cfg.User, string(cfg.Password)),
		nats.Name(fmt.Sprintf("%s-%d", cfg.Stage, cfg.Worker)), nats.CustomInboxPrefix(Inbox(cfg.Worker)),
		nats.MaxReconnects(20), nats.ReconnectWait(100*time.Millisecond), nats.Timeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(64), jetstream.WithPublishAsyncTimeout(30*time.Second))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	consumer, err := js.Consumer(ctx, Stream(cfg.Job), cfg.Stage)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open the queue of %s: %w", cfg.Stage, err)
	}
	w := &Worker{
		Config: cfg, Arena: mem, nc: nc, js: js, consumer: consumer,
		queue: make(chan *Delivery, Prefetch), room: make(chan struct{}, Prefetch), held: map[*Delivery]struct{}{},
	}
	for range Prefetch {
		w.room <- struct{}{}
	}
	w.beating, w.still = context.WithCancel(ctx)
	w.receiving, w.drain = context.WithCancel(w.beating)
	return w, nil
}

// Close leaves the flow, after Pump has returned: what has been sent is flushed,
// what is held and not acknowledged goes to somebody else. No parcel's bytes may
// be looked at from here on.
func (w *Worker) Close() error {
	w.still()
	w.loops.Wait() // they touch the arena, and their report must not follow the last
	w.report(true)
	err := w.nc.FlushTimeout(2 * time.Second)
	w.nc.Close()
	return errors.Join(err, w.Arena.Close())
}

// Draining is closed when the worker has been asked to finish and leave.
func (w *Worker) Draining() <-chan struct{} { return w.receiving.Done() }

// Lost is why no more messages come, if it is that the server is gone for good.
func (w *Worker) Lost() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

func (w *Worker) listen(control *bufio.Reader) {
	for {
		line, err := control.ReadString('\n')
		if strings.TrimSpace(line) == Drain {
			w.drain()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "control pipe:", err)
			}
			os.Exit(3) // the conductor is gone; see Connect
		}
	}
}

// receive keeps a few messages at hand. It asks only for as many as there is
// room for, and holds (with heartbeats) whatever it has got. In the end it gives
// back what nobody has taken.
func (w *Worker) receive() {
	defer w.giveBack()
	for ctx := w.receiving; ; {
		n := w.places(ctx)
		if n == 0 {
			return
		}
		pull, done := context.WithTimeout(ctx, 5*time.Second)
		batch, err := w.consumer.Fetch(n, jetstream.FetchContext(pull))
		if err == nil {
			for msg := range batch.Messages() {
				if d := w.accept(msg); d != nil {
					w.queue <- d // has room: see places
					n--
				}
			}
			err = batch.Error()
		}
		done()
		for range n {
			w.room <- struct{}{}
		}
		switch {
		case err == nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		case errors.Is(err, nats.ErrConnectionClosed):
			w.mu.Lock()
			w.lost = fmt.Errorf("receive: %w", err)
			w.mu.Unlock()
			w.drain() // who waits for room waits in vain
			return
		default: // a server that is busy or gone
			rest(ctx, 20*time.Millisecond)
		}
	}
}

// places waits until all places but one are free and takes them: asking for one
// message at a time would double what a message costs. None: ctx is over.
func (w *Worker) places(ctx context.Context) (n int) {
	for n < Prefetch {
		if n < Prefetch-1 {
			select {
			case <-w.room:
			case <-ctx.Done():
				return 0
			}
		} else {
			select {
			case <-w.room:
			default:
				return n
			}
		}
		n++
	}
	if ctx.Err() != nil {
		return 0
	}
	return n
}

// giveBack returns the messages in the queue and closes it. Their pull is over,
// so that they do not come back to this worker; what the server had sent and we
// have not seen returns after AckWait.
func (w *Worker) giveBack() {
	defer close(w.queue)
	for {
		select {
		case d := <-w.queue:
			_ = d.Again() // at the latest AckWait does it
		default:
			return
		}
	}
}

func (w *Worker) accept(msg jetstream.Msg) *Delivery {
	d := &Delivery{w: w, msg: msg, Tries: 1}
	if meta, err := msg.Metadata(); err == nil {
		d.Tries = meta.NumDelivered
		d.QueuedAt = meta.Timestamp
	}
	w.mu.Lock()
	w.held[d] = struct{}{}
	n := len(w.held)
	w.mu.Unlock()
	w.Meter.held.Store(int64(n))
	if d.Tries > 1 {
		w.Meter.redelivered.Add(1)
	}
	m, err := DecodeMessage(msg.Data())
	if err != nil {
		// Only our own workers can publish here. A message that does not decode
		// is a bug or a forgery; the parcel it stood for is read again.
		w.Alarm(&Fault{Class: Corrupt, Code: "bad-message", Stage: w.Config.Stage, Op: "receive", Object: msg.Subject(), Cause: err.Error(), Remedy: "report this; run the job again"})
		_ = msg.Term()
		w.forget(d)
		return nil
	}
	d.Message = m
	if m.Parcel != nil && !m.Parcel.Claim.IsZero() {
		d.claim = m.Parcel.Claim
		w.Arena.Promote(d.claim)
	}
	return d
}

func (w *Worker) forget(d *Delivery) {
	w.mu.Lock()
	delete(w.held, d)
	n := len(w.held)
	w.mu.Unlock()
	w.Meter.held.Store(int64(n))
}

// beat tells the server which messages are still being worked on, and the
// conductor how the worker is doing.
func (w *Worker) beat() {
	tick := time.NewTicker(Heartbeat)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-w.beating.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		held := make([]*Delivery, 0, len(w.held))
		for d := range w.held {
			held = append(held, d)
		}
		w.mu.Unlock()
		for _, d := range held {
			_ = d.msg.InProgress() // a lost heartbeat means a duplicate, which everyone can take
		}
		w.report(false)
	}
}

// Alarm tells the conductor at once, past the queue, that the job must stop.
func (w *Worker) Alarm(f *Fault) {
	s := w.status()
	s.Fault = f
	w.publishStatus(s)
	_ = w.nc.FlushTimeout(time.Second)
}

func (w *Worker) report(final bool) {
	s := w.status()
	s.Final = final
	w.publishStatus(s)
}

func (w *Worker) publishStatus(s Status) {
	if b, err := events.Marshal(s); err == nil {
		_ = w.nc.Publish(StatusSubject(w.Config.Job, w.Config.Worker), b)
	}
}

// Publish sends b on a plain subject, without storing it. For progress.
func (w *Worker) Publish(subject string, b []byte) error { return w.nc.Publish(subject, b) }

// JetStream is for the ledger's live copy.
func (w *Worker) JetStream() jetstream.JetStream { return w.js }

// Queued counts the messages of the job that wait or are held, per stage.
func (w *Worker) Queued(ctx context.Context) (map[string]uint64, error) {
	return Depths(ctx, w.js, w.Config.Job)
}

// Depths counts the messages of a job that wait or are held, per stage.
func Depths(ctx context.Context, js jetstream.JetStream, job id.Job) (map[string]uint64, error) {
	s, err := js.Stream(ctx, Stream(job))
	if err != nil {
		return nil, fmt.Errorf("look at the queue: %w", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(Subjects(job)))
	if err != nil {
		return nil, fmt.Errorf("look at the queue: %w", err)
	}
	out := map[string]uint64{}
	for _, stage := range Stages() {
		out[stage] = info.State.Subjects[Subject(job, stage)]
	}
	return out, nil
}
