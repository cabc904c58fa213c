// Package spill keeps in files what is too much for memory: a [Log] of blocks
// that are read back by their place, and a [Sorter] of records of one size.
//
// Both are scratch of one process: nothing is synced, nothing outlives a restart.
// The process that needs them again makes them anew from what is durable. What
// they give back decides where chunks are said to lie, so every block carries a
// CRC-32C; one that does not agree is [ErrDamaged], never another answer.
//
// Memory: a Log holds [WriteBuffer] bytes; a Sorter its budget while records are
// added and, while they are read back, a block of each of at most some 200 runs.
//
// Neither may be used from several goroutines at once.
package spill
