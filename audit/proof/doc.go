// Package proof goes through a vault object by object and proves that each is what the
// ledger says, or names it.
//
// Call [Verify] with a store and the vault's description, and with the opened vault if
// there is a password. The [Result] lists every [Finding] and counts what was there.
//
// # What is proven
//
// Without the password: the vault's description and its keys are signed by the key
// whose hash is the vault's id; every segment of the ledger is in the tree whose root
// the next checkpoint signs, from the newest back to the first; every checkpoint
// is signed, is of this one history, and is there if a later one, this machine or
// a witness says that it was; every object that a segment brought in, and none has
// retired, is there with the length and SHA-256 that the segment says; there is no
// object that nothing explains; snapshots of the catalog and copies of points are
// signed. With it also: bodies of segments open and their facts decode, footers of packs
// open, tables decode row by row, bytes of disks add up. What chunks say is for verify
// --read-data: a pack that has its hash has the chunks that were written.
//
// A damaged segment hides nothing: each stretch between two checkpoints is proven by
// itself. What stands behind the newest checkpoint is signed by nobody yet; without the
// password it could have been made by anyone, and [Result.Tail] says how much it is. What
// such a segment says of objects explains what is there besides; it neither retires nor
// replaces what one that is proven, or was opened, has named.
//
// A ledger of more than one segment without a checkpoint, or one segment and anything that
// jobs store, has lost its checkpoints: whoever writes the second signs the first before.
//
// # What is no finding
//
// Heartbeats, and objects of a job that has one, which it has not named yet; objects that
// a job which died left without a fact; retired objects that have not been deleted yet.
// They are counted. Files beside the vault's folders are listed as foreign.
//
// # Cost
//
// One pass over the ledger and one over all objects, in the order of their names, each
// read once; tables are read a second time with the password. Memory: some MiB for
// each worker, and 8 bytes for each checkpoint, whatever the size of the vault: names are sorted in a
// scratch file. With the password there is the catalog besides, which grows with the
// number of points and packs.
//
// The vault may be in use meanwhile. The package writes nothing but its scratch file.
package proof
