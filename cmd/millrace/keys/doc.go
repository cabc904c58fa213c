// Package keys is the command key: which passwords and recovery keys open a vault,
// more and fewer of them, and fresh keys beneath them.
//
// Each password and each recovery key is one object in the vault that wraps the same
// secrets ([vault.Key]). How one comes and goes, step by step, is in package keyring: the
// ledger says what is to come before it is there, and what is to go before it is deleted,
// so that a command may die at any time and audit verify finds nothing wrong. The next key
// command finishes what it left. What nobody said, no key command says for him: an object
// that appeared, one that has gone and one that is damaged are told on stderr, and are
// removed by who asks for that.
//
// # Never without a key
//
// key remove decides by the facts, and its own fact stands only if nobody has said
// anything of keys since ([keyring.Ring.Guard]). An object is deleted after the fact about
// it is signed. So the key that was counted on when another was removed can go only by a
// decision that knows of that removal.
//
// # Rotation
//
// key rotate makes a fresh key for each of the vault's keysets. From then on it seals,
// and the ones from before open what they sealed. Nothing is written again, and what is
// stored is found again. Whatever can be refused is refused before it begins. In this
// order, each step durable before the next:
//
//  1. The fresh keys are stored, sealed with the old ones, so that two who rotate at
//     once have the same: package vault/rotation. A crash leaves them to the next.
//  2. A new recovery key is shown. A crash leaves one that opens nothing.
//  3. The fresh secrets are announced and written, wrapped by every password that goes on
//     and by the recovery key. A crash leaves a vault that opens by old keys and new ones;
//     whoever opens it with a password that has both gets the new, and a key command of
//     his brings them in; who has the old ones alone goes on with the rotation.
//  4. The ledger is told, in a segment sealed with the old keys.
//  5. What the first step stored is deleted. A crash before it leaves the fresh keys to
//     whoever has the old ones, until the next key command.
//  6. Old keys are removed, by facts sealed with the fresh ones. A crash leaves some: they
//     open what was before, and are removed by the next rotation or by key remove.
//
// A password cannot be taken along unless it is given, for nobody else knows it. A job
// that runs meanwhile has the keys from before: what it writes can be read, and what
// others write with the fresh ones it cannot, so it ends with keys-rotated.
package keys
