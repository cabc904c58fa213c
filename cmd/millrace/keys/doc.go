// Package keys is the command key: which passwords and recovery keys open a vault,
// more and fewer of them, and fresh keys beneath them.
//
// Each password and each recovery key is one object in the vault that wraps the same
// secrets ([vault.Key]). The objects are the truth about what opens the vault; the
// facts KeyAdded and KeyRemoved follow them. A command that dies between the two
// leaves a ledger that knows a key too many or too few, and the next of these
// commands says what is missing there.
//
// # Rotation
//
// key rotate makes a fresh key for each of the vault's keysets. From then on it seals,
// and the ones from before open what they sealed. Nothing is written again, and what is
// stored is found again. In this order, each step durable before the next:
//
//  1. The fresh keys are stored, sealed with the old ones, so that two who rotate at
//     once have the same: package vault/rotation. A crash leaves them to the next.
//  2. A new recovery key is shown. A crash leaves one that opens nothing.
//  3. The fresh secrets are written, wrapped by it and by every password that goes on.
//     A crash leaves a vault that opens by old keys and new ones; whoever opens it with a
//     password that has both gets the new.
//  4. The ledger is told, in a segment sealed with the old keys.
//  5. What the first step stored is deleted. A crash before it leaves the fresh keys to
//     whoever has the old ones, until the next rotation.
//  6. Old keys are removed. A crash leaves some: they open what was before, and are
//     removed by the next rotation or by key remove.
//
// A password cannot be taken along unless it is given, for nobody else knows it. A job
// that runs meanwhile has the keys from before: what it writes can be read, and what
// others write with the fresh ones it cannot, so it ends with keys-rotated.
package keys
