package courier

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
)

// KeySize is the size of a Cover's key in bytes.
const KeySize = 32

// NewKey makes the key of one job.
func NewKey() Secret {
	k := make(Secret, KeySize)
	_, _ = rand.Read(k) // never fails: crypto/rand ends the process instead
	return k
}

// Cover keeps letters from those who run a server or share it: AES-256-GCM with a
// random nonce under a key of one job, bound to the subject. Nobody else can read
// a letter, make one, or put one into another box; that one comes twice or late is
// what everyone expects of letters anyway. The zero Cover covers nothing: on a
// server of the job's own, credentials see to that.
//
// A random nonce of 96 bits is good for 2^32 letters under one key, which is a
// thousand times what the largest job sends.
type Cover struct{ aead cipher.AEAD }

// NewCover returns the cover of a key, the zero Cover if there is none.
func NewCover(key Secret) (Cover, error) {
	if len(key) == 0 {
		return Cover{}, nil
	}
	if len(key) != KeySize {
		return Cover{}, fmt.Errorf("a job's key has %d bytes, not %d", KeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Cover{}, fmt.Errorf("use a job's key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return Cover{}, fmt.Errorf("use a job's key: %w", err)
	}
	return Cover{aead}, nil
}

// Seal covers a letter for a subject.
func (c Cover) Seal(subject string, b []byte) []byte {
	if c.aead == nil {
		return b
	}
	return c.aead.Seal(make([]byte, 0, len(b)+c.aead.Overhead()), nil, b, []byte(subject))
}

// Open uncovers a letter that came on a subject.
func (c Cover) Open(subject string, b []byte) ([]byte, error) {
	if c.aead == nil {
		return b, nil
	}
	out, err := c.aead.Open(nil, nil, b, []byte(subject))
	if err != nil {
		return nil, fmt.Errorf("a letter on %s is not of this job: %w", subject, err)
	}
	return out, nil
}
