// Package live carries a copy of the ledger in a JetStream stream, to followers
// that want facts as they happen.
//
// Whoever has appended calls [Copy.Publish]; whoever wants to see calls
// [Copy.Follow], and reads on from the vault where the copy has a gap. What is in the
// vault is true, the copy may vanish at any time and never holds anything else.
package live

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-backup/millrace/events"
)

// ErrGap: the live copy does not continue where the follower stands. Read on from
// the vault.
var ErrGap = errors.New("live copy has a gap")

// Copy is the copy of the ledger in a JetStream stream, for followers that want
// facts as they happen. It may be deleted at any time: it never holds anything
// that the vault does not. A message is the records of one segment, with the
// segment's position in a header; a position is in the stream once.
type Copy struct {
	JS      jetstream.JetStream // nil: nobody follows
	Stream  string              // exists; a limits stream on Subject
	Subject string
}

// positionHeader holds the segment's number in decimal digits.
const positionHeader = "Millrace-Position"

// Publish copies records, in order and already in the ledger, to the stream.
// Positions that are there are skipped, so it may be repeated, and several
// processes may publish the same ones: each message says which sequence it
// expects to follow, and the loser looks again. Records of one segment are
// given together.
//
// A crash before the publish leaves a gap that followers notice and fill from
// the vault; so does a segment too large for a message, which is left out.
func (l Copy) Publish(ctx context.Context, records []events.Record) error {
	for len(records) > 0 && l.JS != nil {
		n := 1
		for n < len(records) && records[n].Position == records[0].Position {
			n++
		}
		if err := l.publish(ctx, records[0].Position, records[:n]); err != nil {
			return fmt.Errorf("publish segment %d: %w", records[0].Position, err)
		}
		records = records[n:]
	}
	return nil
}

func (l Copy) publish(ctx context.Context, position uint64, records []events.Record) error {
	body, err := events.EncodeRecords(records)
	if err != nil {
		return err
	}
	msg := nats.NewMsg(l.Subject)
	msg.Header.Set(positionHeader, strconv.FormatUint(position, 10))
	msg.Data = body
	if int64(len(body)) > l.JS.Conn().MaxPayload()-1024 { // 1 KiB for the headers
		return nil
	}
	for {
		last, at, err := l.last(ctx)
		if err != nil {
			return err
		}
		if last > 0 && at >= position {
			return nil
		}
		_, err = l.JS.PublishMsg(ctx, msg, jetstream.WithExpectLastSequence(last))
		var api *jetstream.APIError
		if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
			continue // somebody else was faster
		}
		return err
	}
}

// last returns the sequence and the position of the newest message; sequence 0
// says that there never was one.
func (l Copy) last(ctx context.Context) (sequence, position uint64, err error) {
	s, err := l.JS.Stream(ctx, l.Stream)
	if err != nil {
		return 0, 0, err
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return state.LastSeq, 0, nil
	}
	m, err := s.GetMsg(ctx, state.LastSeq)
	if err != nil {
		return 0, 0, err
	}
	position, err = strconv.ParseUint(m.Header.Get(positionHeader), 10, 64)
	return state.LastSeq, position, err
}

// Follow yields records from segment position from on as they are published,
// until ctx ends. When the stream does not continue where the follower stands
// (messages were lost, or deleted, or never published) it yields ErrGap with
// the position it could have gone on from, and ends: the follower reads
// Ledger.Records from its own position and follows again. Positions before
// from are passed over.
func (l Copy) Follow(ctx context.Context, from uint64) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		// Ordered consumers hide missing messages; the positions do not.
		c, err := l.JS.OrderedConsumer(ctx, l.Stream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			yield(events.Record{}, fmt.Errorf("follow %s: %w", l.Stream, err))
			return
		}
		for next := from; ctx.Err() == nil; {
			wait, done := context.WithTimeout(ctx, time.Second) // the follower leaves as soon as ctx ends
			m, err := c.Next(jetstream.FetchContext(wait))
			waited := wait.Err() != nil
			done()
			if errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) || err != nil && waited {
				continue
			}
			var records []events.Record
			if err == nil {
				records, err = receive(m, next)
			}
			if err != nil {
				yield(events.Record{}, fmt.Errorf("follow %s: %w", l.Stream, err))
				return
			}
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
				next = r.Position + 1
			}
		}
	}
}

// receive decodes a message for a follower that waits for position next.
func receive(m jetstream.Msg, next uint64) ([]events.Record, error) {
	position, err := strconv.ParseUint(m.Headers().Get(positionHeader), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("message without a position: %w", err)
	}
	if position < next {
		return nil, nil
	}
	if position > next {
		return nil, fmt.Errorf("segment %d follows %d: %w", position, next, ErrGap)
	}
	records, err := events.DecodeRecords(m.Data())
	for i := range records {
		records[i].Position = position
	}
	return records, err
}
