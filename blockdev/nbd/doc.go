// Package nbd reads and writes disks that somebody serves over the Network Block Device
// protocol.
//
// [Dial] makes a connection, shakes hands on it and opens one export; the [Client] is then
// an [io.ReaderAt] and [io.WriterAt] for any number of goroutines, whose requests are under
// way together on the one connection, 64 at most. [Client.BlockStatus] asks what the server
// knows of a range without reading it: for the context [Allocation], what is a hole or
// zeros; for others, such as QEMU's dirty bitmaps, what they say. [Image] makes a
// vdisk.Image of a client.
//
// The dialect is fixed newstyle with structured replies, which every server of the last
// years speaks; a server without them is refused, an old one with [ErrOldStyle]. Data goes
// from the socket into the caller's buffer, past a few KiB at its beginning without a copy,
// and a read allocates nothing.
//
// The server is not trusted. A reply that does not cover its request exactly, names an
// unknown request, or breaks a length of the protocol ends the connection, and every
// call with it, with one error, which is [ErrConnection]; so does a request that takes
// longer than [Options.Timeout]. Nothing is ever taken for zeros that was not said to be.
// What a server refuses is an [Errno], and the connection goes on.
//
// A client does not dial again: who wants to go on after ErrConnection opens a new one.
// Serving disks is package server, below this one.
//
// What of the protocol is used, and the bounds: docs/format/nbd.md.
//
// Source: the protocol's description, doc/proto.md of the NetworkBlockDevice project.
package nbd
