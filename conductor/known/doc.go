// Package known tells a job what is in the vault already, so that it stores
// nothing twice.
//
// Call [Refresh] before the job begins: it looks which packs are in the vault as
// the ledger has them, brings the host's chunk index up to date and returns an
// [Index]. [Index.Link] gives the job names of its own for the index files.
//
// A chunk that is known must be there when somebody restores it. So nothing is
// known that lies in a pack which is missing, has another size than the ledger
// says, was retired, or was withdrawn as a whole, and no chunk that was withdrawn by
// itself. What cannot be read is not known: that costs space and no data, and no
// backup waits for it.
package known
