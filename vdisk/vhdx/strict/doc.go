// Package strict is a second reader of VHDX files for tests, written from the
// specification alone: it shares no line and no constant with vdisk/vhdx, so that
// a rule which is misunderstood there is not misunderstood twice. It judges what
// other tools here cannot: differencing images, sectors of 4096 bytes, what a log
// entry must be.
//
// [Open] checks every rule that the specification gives to who writes a file:
// checksums of both headers and both region tables, reserved fields that must be
// zero, alignment, overlap, states, flags, the log. The error names all that are
// broken. The Disk that comes back reads block by block and sector by sector, as
// slowly as can be, and holds the whole table in memory: it is for small images.
package strict
