package courier

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Letter is a message as its holder has it.
type Letter struct {
	Data     []byte
	Subject  string
	Tries    uint64    // 1 at the first delivery
	QueuedAt time.Time // when it was posted

	// Err says that the letter is not of this job; Data is nothing then.
	Err error

	c   *Courier
	msg *nats.Msg
}

func (c *Courier) hold(msg *nats.Msg) *Letter {
	l := &Letter{Subject: msg.Subject, Tries: 1, c: c, msg: msg}
	if meta, err := msg.Metadata(); err == nil {
		l.Tries, l.QueuedAt = meta.NumDelivered, meta.Timestamp
	}
	l.Data, l.Err = c.cover.Open(l.Subject, msg.Data)
	c.mu.Lock()
	c.held[l] = struct{}{}
	c.mu.Unlock()
	return l
}

// settle says the last word on a letter. A word that cannot be sent, because the way to
// the server is cut at this moment, is lost like one that the server never got: the
// letter comes again.
func (l *Letter) settle(word string) error {
	l.c.mu.Lock()
	_, held := l.c.held[l]
	delete(l.c.held, l)
	l.c.mu.Unlock()
	if !held {
		return fmt.Errorf("say %s of a letter on %s: it was settled before", word, l.Subject)
	}
	if err := answer(l.c.nc, l.msg, word); err != nil && l.c.nc.IsClosed() {
		return fmt.Errorf("say %s of a letter on %s: %w", word, l.Subject, err)
	}
	return nil
}

// Done settles a letter: nobody gets it again, unless this word is lost.
func (l *Letter) Done() error { return l.settle(ack) }

// Again gives the letter back, to be delivered anew to any worker of the queue.
func (l *Letter) Again() error { return l.settle(nak) }

// Later is Again after some time.
func (l *Letter) Later(wait time.Duration) error {
	return l.settle(fmt.Sprintf(nak+` {"delay": %d}`, wait.Nanoseconds()))
}

// Refuse settles a letter that nobody can read.
func (l *Letter) Refuse() {
	_ = l.settle(term) // if it is lost, the next one refuses it
}
