// Package vault seals what a backup stores and opens it again: the vault's
// identity, its keys, compressed and encrypted chunks, and the packs that carry
// them. Where the bytes lie is package vault/store's business.
//
// Call [Create] once, then [Open] with a password or the recovery key. What is
// public is read by [ReadConfig] without either. A process that does one job
// gets a [Grant] instead of a password: only the keys that job needs.
//
// # Words
//
// A *vault* is a store with an object named "vault" in it ([Config]); its id is
// the SHA-256 of its Ed25519 public signing key. A *key* is a password or the
// recovery key; each wraps the same secrets, so passwords can be added and
// removed without touching data. A *domain* is a set of guests that find each
// other's chunks: one key for chunk ids, one for cuts, one keyset for data. A
// *frame* is bytes with the name of the compression in front. A *sealed* thing is
// a Tink AEAD ciphertext (XAES-256-GCM) bound to what it is and where it belongs.
// A *pack* is one object holding the sealed chunks of one job.
//
// # Guarantees
//
// Binding: a sealed object opens only in the vault, the domain, the role
// ([ObjectType]) and under the name it was sealed for. Swapped, moved or edited
// bytes give [ErrDamaged], never other bytes.
//
// Durability and order: Create writes the wrapped keys before the "vault"
// object, so a vault that can be seen can be opened; a pack is visible only
// whole, under the hash of its bytes, and durable when Close returns.
//
// Concurrency: a [Vault] and its [Keys] may be used from many goroutines. A
// [Codec] and a [PackWriter] are for one goroutine each.
//
// Secrets: [Keys] and the types that hold it print as "***" in every form. Keys
// lie in ordinary memory: a core dump or swap of the process holds them.
//
// Compression is package vault/frame, secrets and sealing package vault/seal, keys
// from passwords package vault/kdf; what others need of them has its names here too.
//
// Hostile bytes: everything read from a store is checked and bounded before
// memory is taken for it. Nothing read makes the package panic.
//
// The byte-exact forms are in docs/format: vault, keys, pack, chunk-frame.
//
// The package is not a cache, does not talk to networks, decides nothing about
// retention, and does not know what a guest, a point or a fact is.
package vault

import (
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vault/seal"
)

// Format is the newest version of the formats here that this package writes and
// reads. It is bound into everything sealed.
const Format = seal.Format

// The errors a caller decides by. They come wrapped with operation and object.
var (
	// ErrNoVault: the store holds no vault. A Create that died half-way leaves this.
	ErrNoVault = errors.New("no vault here")
	// ErrVaultExists: the store already holds a vault; it was not touched.
	ErrVaultExists = errors.New("a vault exists here")
	// ErrWrongKey: this opens nothing, and nothing says that the vault is damaged.
	ErrWrongKey = seal.ErrWrongKey
	// ErrNewer: a later version of Millrace wrote this. Nothing is wrong with it.
	ErrNewer = seal.ErrNewer
	// ErrDamaged: the bytes disagree with their name, checksum, signature or key, again and again.
	ErrDamaged = seal.ErrDamaged
	// ErrNoPart: this process was not granted the key for that.
	ErrNoPart = seal.ErrNoPart
	// ErrNoDomain: the keys of this domain were shredded, or are lost; see package apart.
	ErrNoDomain = seal.ErrNoDomain
	// ErrRotated: the keys at hand are from before a rotation; open the vault again. A
	// password that was left behind by the rotation does not help.
	ErrRotated = seal.ErrRotated
	// ErrPackFull: the chunk does not fit the pack any more; close it and begin another.
	ErrPackFull = errors.New("pack is full")
)

// damaged reports an object whose bytes are wrong, saying in which way.
func damaged(object, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", object, fmt.Sprintf(format, args...), ErrDamaged)
}

// newer reports an object in a format of the future.
func newer(object string, got int) error {
	return fmt.Errorf("%s has format %d, this program knows up to %d: %w", object, got, Format, ErrNewer)
}
