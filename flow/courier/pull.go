package courier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// puller asks a queue for letters. jetstream's Fetch would make a subscription for
// each batch and take it back, two messages more and a look-up table that the
// server makes anew each time; this is one for the worker's life. The protocol is
// that of JetStream's pull consumers (NATS ADR-13): a request names how many are
// wanted and for how long, and a status ends it early.
type puller struct {
	nc      *nats.Conn
	next    string // where requests go
	inbox   string // what replies go to, followed by the request's number
	sub     *nats.Subscription
	in      chan *nats.Msg
	closed  chan nats.Status
	request uint64
}

const (
	pullFor = 5 * time.Second // how long the server keeps a request
	grace   = 2 * time.Second // what its word may take beyond that
)

func newPuller(nc *nats.Conn, stream, queue string, places int) (*puller, error) {
	p := &puller{
		nc: nc, next: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + queue, inbox: nc.NewInbox() + ".",
		in:     make(chan *nats.Msg, 4*places+16), // what is asked for, what older requests still bring, and what the server says of them
		closed: nc.StatusChanged(nats.CLOSED),
	}
	var err error
	if p.sub, err = nc.ChanSubscribe(p.inbox+"*", p.in); err != nil {
		return nil, fmt.Errorf("subscribe to the queue of %s: %w", queue, err)
	}
	return p, nil
}

// errBusy says that the server could not serve a request.
var errBusy = errors.New("the server does not serve the queue")

// pull asks for n letters and hands each to accept, until they have come, the
// server says that no more will, or ctx is over. Nil means to ask again at once.
func (p *puller) pull(ctx context.Context, n int, accept func(*nats.Msg)) error {
	p.request++
	number := strconv.FormatUint(p.request, 10)
	ask, err := json.Marshal(struct {
		Expires time.Duration `json:"expires"`
		Batch   int           `json:"batch"`
	}{pullFor, n})
	if err != nil {
		return err
	}
	if err := p.nc.PublishRequest(p.next, p.inbox+number, ask); err != nil {
		return err
	}
	late := time.NewTimer(pullFor + grace) // a request that a restarted server knows nothing of
	defer late.Stop()
	for n > 0 {
		select {
		case m := <-p.in:
			status, own := m.Header.Get("Status"), strings.HasSuffix(m.Subject, "."+number)
			switch {
			case status == "" || len(m.Data) > 0:
				accept(m)
				n--
			case !own || status == "100": // of a request that is over; still at it
			case status == "404" || status == "408": // nothing there; time is over
				return nil
			default:
				return fmt.Errorf("%w: %s %s", errBusy, status, m.Header.Get("Description"))
			}
		case <-p.closed:
			return nats.ErrConnectionClosed
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return nil
		}
	}
	return nil
}

// leave ends the subscription and gives back what nobody has looked at.
func (p *puller) leave() {
	p.nc.RemoveStatusListener(p.closed)
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

// What is said of a letter, on the subject that it came with (NATS ADR-13 and the
// page "Consumers" of the documentation).
const (
	ack     = "+ACK"
	nak     = "-NAK"
	working = "+WPI"
	term    = "+TERM"
)

func answer(nc *nats.Conn, m *nats.Msg, word string) error { return nc.Publish(m.Reply, []byte(word)) }
