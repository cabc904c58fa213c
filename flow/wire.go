package flow

import (
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
)

// Encode returns the wire form.
func (m *Message) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	b, err := events.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	if m.Payload != nil {
		b = courier.Frame(b, m.Payload)
	}
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("encode a message: %d bytes, at most %d are carried", len(b), MaxMessage)
	}
	return b, nil
}

// DecodeMessage reads a wire form through the bounded decoder. A payload is a part
// of b.
func DecodeMessage(b []byte) (*Message, error) {
	head, payload, err := courier.Unframe(b)
	if err != nil {
		return nil, fmt.Errorf("decode a message: %w", err)
	}
	m := &Message{Payload: payload}
	if err := events.Unmarshal(head, m); err != nil {
		return nil, fmt.Errorf("decode a message of %d bytes: %w", len(b), err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("decode a message: %w", err)
	}
	return m, nil
}

// carries checks that the payload is what the claim says: none beside a slot, and
// of the length that a claim without a slot has.
func (m *Message) carries(c arena.Claim) error {
	want := 0
	if c.IsZero() {
		want = int(c.Length)
		if c.Slot != 0 {
			return errors.New("a slot without a generation")
		}
	}
	if len(m.Payload) != want || m.Payload != nil && want == 0 {
		return fmt.Errorf("%d bytes are with it, not %d", len(m.Payload), want)
	}
	return nil
}
