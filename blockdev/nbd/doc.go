// Package nbd reads disks that somebody serves over the Network Block Device protocol.
//
// [Dial] shakes hands on a connection and opens one export; the [Client] is then an
// [io.ReaderAt] for any number of goroutines, whose requests are under way together on
// the one connection. [Client.Status] asks what the server knows of a range without
// reading it: for the context [Allocation], what is a hole or zeros; for others, such as
// QEMU's dirty bitmaps, what they say. [Image] makes a vdisk.Image of a client.
//
// The dialect is fixed newstyle with structured replies, which every server of the last
// years speaks; a server without them is refused. Data goes from the socket into the
// caller's buffer without a copy.
//
// The server is not trusted. A reply that does not cover its request exactly, names an
// unknown request, or breaks a length of the protocol ends the connection, and every
// call with it, with one error; so does a request that takes longer than
// [Options.Timeout]. Nothing is ever taken for zeros that was not said to be.
//
// Source: the protocol's description, doc/proto.md of the NetworkBlockDevice project.
package nbd
