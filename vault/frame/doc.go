// Package frame compresses, and undoes it without trusting what it reads.
//
// [New] gives a [Codec] by name; a [Decoder] undoes whatever any of them did.
//
// A *frame* is self-describing: codec u8 ‖ uvarint length of the content ‖
// payload. Codecs are 0 none, 1 LZ4 block, 2 S2 block, 3 Zstandard frame, 4 MinLZ
// block. One content may have many frames, but no frame is longer than its content by more
// than [Overhead], because what does not shrink is stored as it is.
//
// What is guaranteed: decoding gives exactly what was encoded, or ErrDamaged, or
// ErrNewer for a codec of the future; it never allocates more than the caller
// allows, whatever the frame says. What is not: a frame has no checksum. Frames
// here are always sealed (package vault/seal), which is checksum enough.
//
// The format is docs/format/chunk-frame.md. The package does no I/O.
package frame

import "errors"

// The errors a caller decides by; package vault uses the same two.
var (
	// ErrDamaged: these bytes are no frame, or not one as short as expected.
	ErrDamaged = errors.New("damaged")
	// ErrNewer: a later version of Millrace wrote this. Nothing is wrong with it.
	ErrNewer = errors.New("format is newer than this program")
)
