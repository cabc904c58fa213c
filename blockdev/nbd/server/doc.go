// Package server serves disks over the Network Block Device protocol, to
// hypervisors and whoever else speaks it.
//
// [New] takes the exports, [Server.Serve] a listener. What is served is a [Disk]; one that
// can also zero and trim ranges is a [Zeroer], one that knows where its zeros are a [Mapper].
// The dialect is fixed newstyle, with structured replies where the client wants them; what of
// it is spoken is in docs/format/nbd.md. Requests of a connection run side by side and are
// answered as they end. Several connections to an export show the same, and a flush on one
// covers what was answered on all.
//
// Guarantees. An answer without error to a flush, or to a write with FUA, is sent after
// Disk.Flush has returned. A request that began before Serve is told to end is
// answered, if it ends in time.
//
// Clients are not trusted. Sizes and counts are bounded before memory is taken; the bytes of
// all requests under way are at most Options.Memory together, half of it for one
// connection; a handshake, and taking a reply, have a time limit. A client that breaks the
// protocol loses its connection and nothing else happens.
//
// Source: doc/proto.md of the NetworkBlockDevice project.
package server
