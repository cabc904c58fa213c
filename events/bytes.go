package events

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Hash is a SHA-256 or BLAKE3 sum. On the wire it is its 32 bytes, in JSON hex.
type Hash [32]byte

// UID is a random name of 16 bytes. In JSON it is hex.
type UID [16]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }
func (u UID) String() string  { return hex.EncodeToString(u[:]) }

// IsZero reports whether the sum is absent.
func (h Hash) IsZero() bool { return h == Hash{} }

// IsZero reports whether the name is absent.
func (u UID) IsZero() bool { return u == UID{} }

func fill(what string, dst, src []byte) error {
	if len(src) != len(dst) {
		return fmt.Errorf("events: a %s has %d bytes, got %d", what, len(dst), len(src))
	}
	copy(dst, src)
	return nil
}

func fillText(what string, dst, text []byte) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("events: a %s has %d hex digits, got %d", what, 2*len(dst), len(text))
	}
	_, err := hex.Decode(dst, text)
	return err
}

// MarshalBinary returns the 32 bytes.
func (h Hash) MarshalBinary() ([]byte, error) { return h[:], nil }

// UnmarshalBinary takes exactly 32 bytes.
func (h *Hash) UnmarshalBinary(b []byte) error { return fill("hash", h[:], b) }

// MarshalText returns the form String prints.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText takes the form String prints.
func (h *Hash) UnmarshalText(b []byte) error { return fillText("hash", h[:], b) }

// MarshalBinary returns the 16 bytes.
func (u UID) MarshalBinary() ([]byte, error) { return u[:], nil }

// UnmarshalBinary takes exactly 16 bytes.
func (u *UID) UnmarshalBinary(b []byte) error { return fill("uid", u[:], b) }

// MarshalText returns the form String prints.
func (u UID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText takes the form String prints.
func (u *UID) UnmarshalText(b []byte) error { return fillText("uid", u[:], b) }

// MarshalJSON writes the time as people and jq read it. (A text marshaler
// would change the wire form too, which msgpack takes from it.)
func (m Micros) MarshalJSON() ([]byte, error) {
	if m == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(m.String())
}
