// Package seal holds a vault's secrets and seals with them: chunks, small objects,
// and the secrets themselves under a password's key. It is the one place where
// ciphertexts are made and opened, so what is bound to what is reviewed here.
//
// [Keys] is what everything hangs on: made by [New] once in a vault's life, by
// [Unwrap] when a password opens it, by [LoadGrant] in a worker that was given
// only some. SealChunk and SealMeta seal, OpenChunk, Decode and OpenMeta open.
// Callers above package vault know these names from there.
//
// Words. A *domain* is a set of guests that find each other's chunks: one key for
// chunk ids, one for cuts, one keyset for data. A *part* is a kind of secret that
// can be granted by itself. *Sealed* means a Tink AEAD ciphertext (XAES-256-GCM)
// whose associated data says what it is and where it belongs.
//
// What is guaranteed: a sealed object opens only with this vault's keys, in its
// domain, in its role ([ObjectType]) and under the name it was sealed for; else
// the answer is ErrDamaged. Nonces are 192 random bits and never run out. Keysets
// are Tink's, and each ciphertext names its key, so that a keyset may be rotated
// without touching what is sealed. Keys may be used from many goroutines, and
// print as "***" in every form.
//
// What is not: keys lie in ordinary memory, so a core dump or swap of the process
// holds them; the lengths of what is sealed are visible; and sealing says nothing
// of *when*, an old object is as genuine as a new one (the ledger's business).
//
// The byte-exact forms are docs/format/keys.md and docs/format/chunk-frame.md.
package seal

import (
	"errors"

	"github.com/millrace-backup/millrace/vault/frame"
)

// Format is the version bound into everything sealed.
const Format = 1

// The errors a caller decides by; package vault uses the same ones.
var (
	// ErrDamaged: the bytes are not what was sealed under this name.
	ErrDamaged = frame.ErrDamaged
	// ErrNewer: a later version of Millrace wrote this.
	ErrNewer = frame.ErrNewer
	// ErrNoPart: this process was not granted the key for that, or the domain is
	// unknown to it.
	ErrNoPart = errors.New("key not held")
	// ErrWrongKey: these secrets are not wrapped under this key.
	ErrWrongKey = errors.New("wrong password or recovery key")
	// ErrRotated: this was sealed after a rotation that the keys at hand are from before.
	ErrRotated = errors.New("the vault's keys were rotated since these were read")
)
