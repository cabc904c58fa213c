package courier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Dial says how to reach a server.
type Dial struct {
	URL         string        `json:"url"` // or several, with commas in between
	User        string        `json:"user"`
	Password    Secret        `json:"password"`
	Credentials Secret        `json:"credentials"` // a NATS credentials file (JWT and seed); else user and password
	CA          string        `json:"ca"`          // file with the certificates of the server's authority; "": the system's
	Name        string        `json:"name"`        // of this end, for whoever looks at the server
	Inbox       string        `json:"inbox"`       // prefix of the subjects that replies come on; "": any
	Patience    time.Duration `json:"patience"`    // how long a server that is away is waited for; 0: see DefaultPatience
	Key         Secret        `json:"key"`         // see Cover; empty: letters go as they are
}

const (
	// DefaultPatience is for a server in the conductor's process: it is there, or
	// the job is over.
	DefaultPatience = 2 * time.Second
	reconnectWait   = 100 * time.Millisecond // between two tries to reach a server again
)

// Connect reaches the server. more is for what only one caller needs.
func Connect(d Dial, more ...nats.Option) (*nats.Conn, error) {
	o := []nats.Option{
		nats.Name(d.Name), nats.Timeout(10 * time.Second), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(0, 0),
		nats.MaxReconnects(int(max(d.Patience, DefaultPatience) / reconnectWait)),
	}
	switch {
	case len(d.Credentials) > 0:
		o = append(o, nats.UserCredentialBytes(d.Credentials))
	case d.User != "":
		o = append(o, nats.UserInfo(d.User, string(d.Password)))
	}
	if d.CA != "" {
		o = append(o, nats.RootCAs(d.CA))
	}
	if d.Inbox != "" {
		o = append(o, nats.CustomInboxPrefix(d.Inbox))
	}
	nc, err := nats.Connect(d.URL, append(o, more...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// Courier is a worker's connection to its job. Receive is for one goroutine; the
// rest may be used from several.
type Courier struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	letters  *puller
	room     chan struct{} // one for each free place with the worker
	places   int
	cover    Cover
	patience time.Duration

	mu   sync.Mutex
	held map[*Letter]struct{} // everything received and not yet settled: heartbeats go out for these
	lost error
}

// maxPosting bounds the letters on their way to the server.
const maxPosting = 64

// Join opens a queue. places is how many letters may wait with the worker: more
// only make a killed worker take more with it. A server that is away, or has lost the
// queue, which the conductor makes again, is waited for as long as d has patience: a
// worker that ended at once would be replaced by others that do, until the job fails.
func Join(ctx context.Context, d Dial, stream, queue string, places int) (*Courier, error) {
	cover, err := NewCover(d.Key)
	if err != nil {
		return nil, err
	}
	var nc *nats.Conn
	err = patiently(ctx, d, func() error {
		nc, err = Connect(d)
		return err
	})
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPosting), jetstream.WithPublishAsyncTimeout(30*time.Second))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	err = patiently(ctx, d, func() error {
		_, err := js.Consumer(ctx, stream, queue)
		return err
	})
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open the queue of %s: %w", queue, err)
	}
	letters, err := newPuller(nc, stream, queue, places)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &Courier{
		nc: nc, js: js, letters: letters, held: map[*Letter]struct{}{}, places: places, room: make(chan struct{}, places),
		cover: cover, patience: max(d.Patience, 20*time.Second),
	}
	for range places {
		c.room <- struct{}{}
	}
	return c, nil
}

// patiently tries until it works, ctx is over or d's patience is, which nobody needs who
// is not let in.
func patiently(ctx context.Context, d Dial, try func() error) error {
	for since := time.Now(); ; rest(ctx, reconnectWait) {
		err := try()
		if err == nil || ctx.Err() != nil || errors.Is(err, nats.ErrAuthorization) || time.Since(since) > max(d.Patience, DefaultPatience) {
			return err
		}
	}
}

// Close leaves the server; what has been said is flushed. What is held and not
// settled goes to somebody else.
func (c *Courier) Close() error {
	err := c.nc.FlushTimeout(2 * time.Second)
	c.nc.Close()
	return err
}

// Flush waits, at most so long, until the server has all that was said.
func (c *Courier) Flush(wait time.Duration) { _ = c.nc.FlushTimeout(wait) }

// JetStream is for the ledger's live copy.
func (c *Courier) JetStream() jetstream.JetStream { return c.js }

// Say sends b on a plain subject: who listens now hears it.
func (c *Courier) Say(subject string, b []byte) error {
	return c.nc.Publish(subject, c.cover.Seal(subject, b))
}

// Lost is why no more letters come, if it is that the server is gone for good.
func (c *Courier) Lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// Receive hands letters to accept until ctx is over or the server is lost. It asks
// only for as many as there is room for. A letter that accept refuses (false) has
// been settled and takes no place; for the others, [Courier.Taken] gives it free.
func (c *Courier) Receive(ctx context.Context, accept func(*Letter) bool) {
	defer c.letters.close()
	for {
		n := c.free(ctx)
		if n == 0 {
			return
		}
		err := c.letters.pull(ctx, n, func(msg *nats.Msg) {
			if accept(c.hold(msg)) {
				n--
			}
		})
		for range n {
			c.room <- struct{}{}
		}
		switch {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, nats.ErrConnectionClosed):
			c.mu.Lock()
			c.lost = fmt.Errorf("receive: %w", err)
			c.mu.Unlock()
			return
		default: // a server that is busy or away
			rest(ctx, 20*time.Millisecond)
		}
	}
}

// free waits until all places but one are free and takes them: asking for one
// letter at a time would double what a letter costs. None: ctx is over.
func (c *Courier) free(ctx context.Context) (n int) {
	for n < c.places {
		if n < c.places-1 {
			select {
			case <-c.room:
			case <-ctx.Done():
				return 0
			}
		} else {
			select {
			case <-c.room:
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

// Taken makes room for another letter to be asked for.
func (c *Courier) Taken() { c.room <- struct{}{} }

// Held counts the letters received and not yet settled.
func (c *Courier) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held)
}

// Beat tells the server which letters are still being worked on.
func (c *Courier) Beat() {
	c.mu.Lock()
	held := make([]*Letter, 0, len(c.held))
	for l := range c.held {
		held = append(held, l)
	}
	c.mu.Unlock()
	for _, l := range held {
		_ = answer(c.nc, l.msg, working) // a lost heartbeat means a duplicate, which everyone can take
	}
}

// rest sleeps, unless ctx ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
