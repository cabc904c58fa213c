package kdf

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"

	"golang.org/x/crypto/argon2"
)

// Params says how a password or a recovery key becomes the key that wraps the
// vault's secrets. It is stored in clear beside them, so whoever can write to
// the store can change it: the bounds below stop a reader from being made to
// work for hours, or to reveal a password through a cheap hash.
type Params struct {
	Name      string `json:"name"` // "argon2id" (RFC 9106) or "hkdf-sha256" (RFC 5869)
	Salt      []byte `json:"salt"`
	Time      uint32 `json:"time,omitzero"`       // Argon2id passes
	MemoryKiB uint32 `json:"memory_kib,omitzero"` // Argon2id memory
	Threads   uint8  `json:"threads,omitzero"`    // Argon2id lanes
}

// The derivations, by what they are for.
const (
	Password = "argon2id"
	Recovery = "hkdf-sha256"
)

// The least and the most that is accepted of Argon2id.
const (
	MinMemoryKiB, MaxMemoryKiB = 8 << 10, 1 << 20
	MaxTime, MaxThreads        = 16, 16
)

const (
	saltSize = 32
	// What HKDF is told the key is for.
	recoveryInfo = "millrace recovery key wraps vault secrets"
)

// Default is how new passwords are hardened: Argon2id over 64 MiB, three
// passes, four lanes, about 0.1 s of one core. The salt is left out.
func Default() Params { return Params{Name: Password, Time: 3, MemoryKiB: 64 << 10, Threads: 4} }

// Check refuses parameters that are too cheap or too costly.
func (p Params) Check() error {
	if len(p.Salt) < 16 || len(p.Salt) > 64 {
		return fmt.Errorf("salt of %d bytes", len(p.Salt))
	}
	switch p.Name {
	case Password:
		if p.MemoryKiB < MinMemoryKiB || p.MemoryKiB > MaxMemoryKiB {
			return fmt.Errorf("argon2id over %d KiB, not %d to %d", p.MemoryKiB, MinMemoryKiB, MaxMemoryKiB)
		}
		if p.Time < 1 || p.Time > MaxTime {
			return fmt.Errorf("argon2id of %d passes, not 1 to %d", p.Time, MaxTime)
		}
		if p.Threads < 1 || p.Threads > MaxThreads {
			return fmt.Errorf("argon2id of %d lanes, not 1 to %d", p.Threads, MaxThreads)
		}
		return nil
	case Recovery:
		if p.Time != 0 || p.MemoryKiB != 0 || p.Threads != 0 {
			return fmt.Errorf("hkdf-sha256 with argon2id's parameters")
		}
		return nil
	}
	return fmt.Errorf("unknown key derivation %q", p.Name)
}

// WithSalt returns p with a fresh salt.
func (p Params) WithSalt() Params {
	p.Salt = make([]byte, saltSize)
	_, _ = rand.Read(p.Salt) // never fails since Go 1.24
	return p
}

// touch has the system hand over the memory that Argon2id is about to ask for.
// Argon2id reads each block before it writes it, in all its lanes at once, so that
// each page of new memory faults twice, and all lanes queue for it: that took longer
// than the hash (BenchmarkDerive). What is touched here and dropped is what the next
// allocation of that size gets; where the runtime does not reuse it, time is all that
// is lost.
func touch(kib uint32) {
	const page = 4 << 10
	for b := make([]byte, int(kib)<<10); len(b) >= page; b = b[page:] {
		b[0] = 1
	}
	runtime.GC()
}

// Derive turns secret into the key that wraps the vault's secrets. p was checked.
func (p Params) Derive(secret []byte) (kek [32]byte, err error) {
	var key []byte
	switch p.Name {
	case Password:
		touch(p.MemoryKiB)
		key = argon2.IDKey(secret, p.Salt, p.Time, p.MemoryKiB, p.Threads, 32)
	case Recovery:
		if key, err = hkdf.Key(sha256.New, secret, p.Salt, recoveryInfo, 32); err != nil {
			return kek, fmt.Errorf("derive a key: %w", err)
		}
	default:
		return kek, fmt.Errorf("derive a key: unknown derivation %q", p.Name)
	}
	copy(kek[:], key)
	clear(key)
	return kek, nil
}
