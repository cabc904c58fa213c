package courier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Box is where letters are posted.
type Box struct {
	Stream, Subject string
	// Limit is how many letters may be in the box. One that is large is not sent
	// before there is room: the server refuses it only when it has all of it.
	// 0: it is sent, and refused letters are sent again.
	Limit uint64
}

// Post stores b in a box and returns when the server has it. A full one is waited
// for; other failures are tried again for a while: a second copy does no harm.
// rest is called for every pause.
func (c *Courier) Post(ctx context.Context, to Box, b []byte, rest func(time.Duration)) error {
	b = c.cover.Seal(to.Subject, b)
	pause := 2 * time.Millisecond
	for since := time.Now(); ; {
		err := c.await(ctx, to, rest)
		if err == nil {
			_, err = c.js.Publish(ctx, to.Subject, b)
		}
		if err == nil {
			return nil
		}
		if full := queueFull(err); ctx.Err() != nil || (!full && time.Since(since) > c.patience) {
			return fmt.Errorf("post to %s: %w", to.Subject, errors.Join(ctx.Err(), err))
		}
		rest(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// await waits until there is room in a box with a limit. That others who saw the
// same room are faster does no harm: the server keeps to the limit.
func (c *Courier) await(ctx context.Context, to Box, rest func(time.Duration)) error {
	for pause := 2 * time.Millisecond; to.Limit > 0; pause = min(2*pause, 20*time.Millisecond) {
		n, err := Counts(ctx, c.js, to.Stream, to.Subject)
		if err != nil || n[to.Subject] < to.Limit {
			return err
		}
		rest(pause)
	}
	return nil
}

func queueFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.ErrorCode(10077) || api.Code == 503 && api.Description == "maximum messages per subject exceeded")
}

// Receipt tells when the server has a letter.
type Receipt struct {
	future jetstream.PubAckFuture
	unsent bool
}

// IsZero reports whether nothing was posted.
func (r Receipt) IsZero() bool { return r.future == nil && !r.unsent }

// PostAsync sends b without waiting for the server's word, once there is room. What
// cannot be sent, because the way to the server is cut at this moment, has a receipt that
// says that the server does not have it.
func (c *Courier) PostAsync(ctx context.Context, to Box, b []byte) (Receipt, error) {
	if err := c.await(ctx, to, func(d time.Duration) { rest(ctx, d) }); err != nil && ctx.Err() != nil {
		return Receipt{}, err
	} // else Post will find out
	f, err := c.js.PublishAsync(to.Subject, c.cover.Seal(to.Subject, b))
	if err != nil && c.nc.IsClosed() {
		return Receipt{}, fmt.Errorf("post to %s: %w", to.Subject, err)
	}
	return Receipt{f, err != nil}, nil
}

// Await returns whether the server has the letter. It has not if it said so, or
// said nothing for long; the error is that of ctx.
func (r Receipt) Await(ctx context.Context) (stored bool, err error) {
	if r.unsent {
		return false, nil
	}
	select {
	case <-r.future.Ok():
		return true, nil
	case <-r.future.Err():
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Counts counts the letters that wait or are held in a stream, per subject of
// those that match filter.
func Counts(ctx context.Context, js jetstream.JetStream, stream, filter string) (map[string]uint64, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("look at the queue: %w", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("look at the queue: %w", err)
	}
	return info.State.Subjects, nil
}
