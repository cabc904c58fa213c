// Package wire has the numbers of the NBD protocol, which the client (package nbd) and the
// server (package server) share: magic words, options of the handshake and replies to them,
// commands, their flags, and chunks of structured replies. It has no code and no bounds:
// what is believed of a peer is decided where it is read.
//
// All integers are big-endian on the wire.
//
// Source: doc/proto.md of the NetworkBlockDevice project.
package wire

// What the protocol is made of.
const (
	MagicHello  = 0x4e42444d41474943 // "NBDMAGIC"
	MagicOption = 0x49484156454f5054 // "IHAVEOPT"
	MagicOld    = 0x00420281861253   // after MagicHello, of a server without options
	MagicReply  = 0x0003e889045565a9 // to an option
	MagicAsk    = 0x25609513
	MagicSimple = 0x67446698
	MagicChunk  = 0x668e33ef

	FlagFixed    = 1 << 0 // of the handshake, both ways
	FlagNoZeroes = 1 << 1

	OptStartTLS   = 5
	OptGo         = 7
	OptStructured = 8
	OptSetMeta    = 10

	RepAck      = 1
	RepInfo     = 3
	RepMeta     = 4
	RepErrorBit = 1 << 31

	InfoExport    = 0
	InfoBlockSize = 3

	CmdRead   = 0
	CmdWrite  = 1
	CmdDisc   = 2
	CmdFlush  = 3
	CmdTrim   = 4
	CmdZeroes = 6
	CmdStatus = 7

	ChunkNone        = 0
	ChunkData        = 1
	ChunkHole        = 2
	ChunkStatus      = 5
	ChunkErrorBit    = 1 << 15
	ChunkError       = ChunkErrorBit + 1
	ChunkErrorOffset = ChunkErrorBit + 2
	ChunkDone        = 1 // flag

	RequestSize = 28
)

// What only a server sees.
const (
	OptExportName = 1
	OptAbort      = 2
	OptList       = 3
	OptInfo       = 6
	OptListMeta   = 9

	RepServer = 2

	InfoName        = 1
	InfoDescription = 2

	CmdCache = 5

	FlagFUA      = 1 << 0 // of a command
	FlagNoHole   = 1 << 1
	FlagDF       = 1 << 2
	FlagReqOne   = 1 << 3
	FlagFastZero = 1 << 4
)

// Replies to options that refuse.
const (
	RefusedUnsupported = RepErrorBit + 1
	RefusedPolicy      = RepErrorBit + 2
	RefusedInvalid     = RepErrorBit + 3
	RefusedPlatform    = RepErrorBit + 4
	RefusedTLS         = RepErrorBit + 5
	RefusedUnknown     = RepErrorBit + 6
	RefusedShutdown    = RepErrorBit + 7
	RefusedBlockSize   = RepErrorBit + 8
	RefusedTooBig      = RepErrorBit + 9
)
