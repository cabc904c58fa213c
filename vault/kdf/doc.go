// Package kdf turns what a person keeps into a key: a password by Argon2id (RFC
// 9106), a recovery key by HKDF (RFC 5869).
//
// [Params] says how; [Default] is for new passwords. Call Check before Derive on
// parameters that were read from a store: it bounds what a hostile one can make a
// reader do. [NewRecovery] makes a recovery key, [ParseRecovery] reads what was
// typed from paper.
//
// Words. A *secret* is what is derived from: the password's bytes, or the 32 bytes
// that a recovery key spells. The *key* that comes out wraps the vault's secrets.
//
// What is guaranteed: nothing read from outside makes it panic or work without
// bound. What is not: a weak password stays one, only slower to guess.
//
// The forms are in docs/format/keys.md. Envelopes, which carry the parameters, are
// package vault's.
package kdf
