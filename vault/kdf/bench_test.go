package kdf

import (
	"runtime/debug"
	"testing"

	"golang.org/x/crypto/argon2"
)

// BenchmarkDerive compares the derivation at its full price with the hash alone,
// each in memory that the process does not have yet, as when a command starts.
func BenchmarkDerive(b *testing.B) {
	p := Default().WithSalt()
	b.Run("touched", func(b *testing.B) {
		for range b.N {
			debug.FreeOSMemory()
			if _, err := p.Derive([]byte("secret")); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("untouched", func(b *testing.B) {
		for range b.N {
			debug.FreeOSMemory()
			argon2.IDKey([]byte("secret"), p.Salt, p.Time, p.MemoryKiB, p.Threads, 32)
		}
	})
}
