// Package growth measures how cost grows with the size of a disk.
//
// [Measure] makes images of real files of an eighth, a quarter, half and the whole of a
// size, and backs each up, backs it up again unchanged, and restores it, each image in a
// vault of its own. A straight line through the medians says what a GiB costs and what is
// paid however small the disk is.
//
// Then it backs up disks that are nothing but a hole, up to 16 TiB, twice. The second
// backup of such a disk is what a job pays that has nothing to read: the password's
// derivation at its full cost, opening the vault, eight processes, the commit. It is a
// lower bound for a disk with data whose tracking says that nothing has changed. That
// itself cannot be measured yet: no driver has tracking, so data is read.
package growth
