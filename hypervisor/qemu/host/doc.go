// Package host is what the QEMU driver needs of the system that QEMU runs on: files
// without names ([Unnamed], [Fleece]), sockets in folders whose paths are too long for a socket's
// address ([Listen], [Dial]), and processes, by which it is told whether QEMU is still
// the same ([Process]), whether a job still lives ([Present], [Alive]), and how one that
// hangs is ended ([Kill]).
//
// Only Linux has it all. Elsewhere nothing works, and says so.
package host
