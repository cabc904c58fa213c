package courier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Post stores b under subject and returns when the server has it. A full queue is
// waited for; other failures are tried again for a while: a second copy does no
// harm. rest is called for every pause.
func (c *Courier) Post(ctx context.Context, subject string, b []byte, rest func(time.Duration)) error {
	pause := 2 * time.Millisecond
	for since := time.Now(); ; {
		_, err := c.js.Publish(ctx, subject, b)
		if err == nil {
			return nil
		}
		if full := queueFull(err); ctx.Err() != nil || (!full && time.Since(since) > 20*time.Second) {
			return fmt.Errorf("post to %s: %w", subject, errors.Join(ctx.Err(), err))
		}
		rest(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

func queueFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.ErrorCode(10077) || api.Code == 503 && api.Description == "maximum messages per subject exceeded")
}

// Receipt tells when the server has a letter.
type Receipt struct{ future jetstream.PubAckFuture }

// IsZero reports whether nothing was posted.
func (r Receipt) IsZero() bool { return r.future == nil }

// PostAsync sends b without waiting for the server's word.
func (c *Courier) PostAsync(subject string, b []byte) (Receipt, error) {
	f, err := c.js.PublishAsync(subject, b)
	if err != nil {
		return Receipt{}, fmt.Errorf("post to %s: %w", subject, err)
	}
	return Receipt{f}, nil
}

// Await returns whether the server has the letter. It has not if it said so, or
// said nothing for long; the error is that of ctx.
func (r Receipt) Await(ctx context.Context) (stored bool, err error) {
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
