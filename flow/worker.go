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
	"sync/atomic"
	"time"

	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/flow/meter"
	"github.com/nats-io/nats.go/jetstream"
)

// Worker is one process's place in the flow: its queue, its arena, its account.
// Receiving is for one goroutine; the rest may be used from several.
type Worker struct {
	Config Config
	Arena  *arena.Arena
	Meter  meter.Meter
	waits  atomic.Value // string: see Waits

	courier *courier.Courier
	queue   chan *Delivery // received and not yet taken

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
	w.Meter.Begin(time.Now())
	w.loops.Go(w.receive)
	w.loops.Go(w.beat)
	go w.listen(control)
	w.report(false)
	return w, nil
}

func join(ctx context.Context, cfg Config, mem *arena.Arena) (*Worker, error) {
	stream, places := queueOf(&cfg)
	dial := cfg.Dial
	dial.Name, dial.Inbox = fmt.Sprintf("%s-%d", cfg.Stage, cfg.Worker), address.Inbox(cfg.Worker)
	post, err := courier.Join(ctx, dial, stream, cfg.Stage, places)
	if err != nil {
		return nil, err
	}
	w := &Worker{Config: cfg, Arena: mem, courier: post, queue: make(chan *Delivery, places)}
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
	return errors.Join(w.courier.Close(), w.Arena.Close())
}

// Draining is closed when the worker has been asked to finish and leave.
func (w *Worker) Draining() <-chan struct{} { return w.receiving.Done() }

// Lost is why no more messages come, if it is that the server is gone for good.
func (w *Worker) Lost() error { return w.courier.Lost() }

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

// receive keeps a few messages at hand and holds (with heartbeats) whatever it
// has got. In the end it gives back what nobody has taken.
func (w *Worker) receive() {
	defer w.giveBack()
	w.courier.Receive(w.receiving, func(l *courier.Letter) bool {
		d := w.accept(l)
		if d != nil {
			w.queue <- d // has room: the courier asks for no more
		}
		return d != nil
	})
	w.drain() // if the server is lost, who waits for room waits in vain
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

func (w *Worker) accept(l *courier.Letter) *Delivery {
	d := &Delivery{Tries: l.Tries, QueuedAt: l.QueuedAt, w: w, letter: l}
	if d.Tries > 1 {
		w.Meter.CountRedelivered()
	}
	m, err := DecodeMessage(l.Data)
	if l.Err != nil && len(w.Config.Dial.Key) > 0 {
		l.Refuse() // whoever has a way to this server may write anything: it is not of this job
		return nil
	}
	if err != nil {
		// Only our own workers can publish here. A message that does not decode
		// is a bug or a forgery; the parcel it stood for is read again.
		w.Alarm(&Fault{Class: Corrupt, Code: "bad-message", Stage: w.Config.Stage, Op: "receive", Object: l.Subject, Cause: err.Error(), Remedy: "report this; run the job again"})
		l.Refuse()
		return nil
	}
	d.Message = m
	if m.Parcel != nil && !m.Parcel.Claim.IsZero() {
		d.claim = m.Parcel.Claim
		w.Arena.Promote(d.claim)
	}
	return d
}

// beat tells the server which messages are still being worked on, and the
// conductor how the worker is doing.
func (w *Worker) beat() {
	tick := time.NewTicker(Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-w.beating.Done():
			return
		case <-tick.C:
		}
		w.courier.Beat()
		w.report(false)
	}
}

// Publish sends b on a plain subject, without storing it. For progress.
func (w *Worker) Publish(subject string, b []byte) error { return w.courier.Say(subject, b) }

// JetStream is for the ledger's live copy; nil where messages are covered: facts are
// sealed in the vault, and no open copy of them goes where others look.
func (w *Worker) JetStream() jetstream.JetStream {
	if len(w.Config.Dial.Key) > 0 {
		return nil
	}
	return w.courier.JetStream()
}
