// Package uploader is the sixth stage: it gathers sealed chunks into packs and
// makes them durable.
//
// Reads: parcels with sealed bytes in the arena. Writes: packs/<job>/<sha256> in
// the vault, and then, to the indexer, each parcel with the pack its pieces went
// into. A parcel's slot and message are held until its pack is durable.
//
// A pack is closed when it is large enough (32 MiB), when the arena runs low
// (else seal would wait for slots that wait for the pack), when it has waited
// long enough, and when nothing more is coming.
//
// All uploaders of a host together keep to a rate, if one is set (see package pace):
// each waits before it writes.
//
// A crash before the pack is closed leaves an unfinished upload, which the store
// sweeps, and the parcels are delivered again. A crash after it and before the
// hand-over leaves a pack that no fact names: the parcels are stored a second
// time, and prune finds the first.
package uploader
