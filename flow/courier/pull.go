package courier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// puller asks a queue for letters. jetstream's Fetch would make a subscription for
// each batch and take it back, two messages more and a look-up table that the
// server makes anew each time; this keeps one. The protocol is that of JetStream's
// pull consumers (NATS ADR-13): a request names how many are wanted and for how
// long, and a status ends it early.
//
// There is one open request at a time. One whose end is not known, because the
// connection was lost or the server said nothing, is left behind together with its
// subscription: a server forgets requests that nobody listens to, and what it still
// sends for one would come on top of what the next asks for.
type puller struct {
	nc        *nats.Conn
	next      string // where requests go
	places    int
	wait      time.Duration // how long the server keeps a request
	in        chan *nats.Msg
	sub       *nats.Subscription
	closed    chan nats.Status
	connected chan nats.Status // again
}

const (
	pullFor = 5 * time.Second
	grace   = 2 * time.Second // what the server's word may take beyond that
)

func newPuller(nc *nats.Conn, stream, queue string, places int) (*puller, error) {
	p := &puller{
		nc: nc, next: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + queue, places: places, wait: pullFor,
		closed: nc.StatusChanged(nats.CLOSED), connected: nc.StatusChanged(nats.CONNECTED),
	}
	return p, p.listen()
}

// listen subscribes to what the next requests bring.
func (p *puller) listen() (err error) {
	p.in = make(chan *nats.Msg, p.places+16) // what is asked for, and what the server says of it
	if p.sub, err = p.nc.ChanSubscribe(p.nc.NewInbox(), p.in); err != nil {
		return fmt.Errorf("subscribe to %s: %w", p.next, err)
	}
	return nil
}

// errBusy says that the server could not serve a request.
var errBusy = errors.New("the server does not serve the queue")

// pull asks for n letters, at most as many as there are places, and hands each to
// accept, until they have come, the server says that no more will, or ctx is over.
// Nil means to ask again at once.
func (p *puller) pull(ctx context.Context, n int, accept func(*nats.Msg)) error {
	ask, err := json.Marshal(struct {
		Expires time.Duration `json:"expires"`
		Batch   int           `json:"batch"`
	}{p.wait, n})
	if err != nil {
		return err
	}
	if err := p.nc.PublishRequest(p.next, p.sub.Subject, ask); err != nil {
		return err
	}
	late := time.NewTimer(p.wait + min(grace, p.wait))
	defer late.Stop()
	for n > 0 {
		select {
		case m := <-p.in:
			switch status := m.Header.Get("Status"); {
			case status == "" || len(m.Data) > 0:
				accept(m)
				n--
			case status == "100": // still at it
			case status == "404" || status == "408": // nothing there; time is over
				return nil
			default:
				return errBusy
			}
		case <-p.closed:
			return nats.ErrConnectionClosed
		case <-ctx.Done():
			return ctx.Err()
		case <-p.connected:
			return p.renew()
		case <-late.C:
			return p.renew()
		}
	}
	return nil
}

// renew leaves the open request behind.
func (p *puller) renew() error {
	p.leave()
	return p.listen()
}

// leave ends the subscription and gives back what nobody has looked at.
func (p *puller) leave() {
	_ = p.sub.Unsubscribe() // else the connection is gone, and with it the subscription
	for {
		select {
		case m := <-p.in:
			if m.Reply != "" {
				_ = answer(p.nc, m, nak) // at the latest the queue's ack wait does it
			}
		default:
			return
		}
	}
}

// close ends everything.
func (p *puller) close() {
	p.nc.RemoveStatusListener(p.closed)
	p.nc.RemoveStatusListener(p.connected)
	p.leave()
}

// What is said of a letter, on the subject that it came with (NATS ADR-13 and the
// page "Consumers" of the documentation).
const (
	ack     = "+ACK"
	nak     = "-NAK"
	working = "+WPI"
	term    = "+TERM"
)

func answer(nc *nats.Conn, m *nats.Msg, word string) error { return nc.Publish(m.Reply, []byte(word)) }
