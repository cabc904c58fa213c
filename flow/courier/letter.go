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

func (l *Letter) forget() {
	l.c.mu.Lock()
	delete(l.c.held, l)
	l.c.mu.Unlock()
}

// Done settles a letter: nobody gets it again, unless this word is lost.
func (l *Letter) Done() error {
	l.forget()
	if err := answer(l.c.nc, l.msg, ack); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}

// Again gives the letter back, to be delivered anew to any worker of the queue.
func (l *Letter) Again() error {
	l.forget()
	if err := answer(l.c.nc, l.msg, nak); err != nil {
		return fmt.Errorf("give a message back: %w", err)
	}
	return nil
}

// Later is Again after some time.
func (l *Letter) Later(wait time.Duration) error {
	l.forget()
	if err := answer(l.c.nc, l.msg, fmt.Sprintf(nak+` {"delay": %d}`, wait.Nanoseconds())); err != nil {
		return fmt.Errorf("give a message back: %w", err)
	}
	return nil
}

// Refuse settles a letter that nobody can read.
func (l *Letter) Refuse() {
	l.forget()
	_ = answer(l.c.nc, l.msg, term) // if it is lost, the next one refuses it
}
