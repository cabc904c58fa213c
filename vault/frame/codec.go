package frame

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/minio/minlz"
	"github.com/pierrec/lz4/v4"
)

// The codecs a frame can name. The values are on disk: append only.
const (
	codecNone  = 0
	codecLZ4   = 1 // LZ4 block format
	codecS2    = 2 // S2 block format (Snappy's, extended)
	codecZstd  = 3 // one Zstandard frame
	codecMinLZ = 4 // MinLZ block format
)

// Codec compresses. Encode appends a frame, codec u8 ‖ uvarint length of src ‖
// payload, to dst and returns it; src is not kept. Whatever the codec, a payload
// that would not be smaller is stored as it is, so a frame is never more than
// [Overhead] longer than src. One goroutine at a time.
type Codec interface {
	Encode(dst, src []byte) []byte
}

// Overhead is the most a frame is longer than its content.
const Overhead = 1 + binary.MaxVarintLen32

// Codecs are the names New knows, in the order to show them.
func Codecs() []string { return []string{"auto", "minlz", "s2", "lz4", "zstd", "none"} }

// New returns the codec of that name. "auto" is MinLZ for what a sample of it says
// can shrink, and stores what would save less than a sixteenth as it is.
func New(name string) (Codec, error) {
	switch name {
	case "auto":
		return &auto{}, nil
	case "lz4":
		return &lz4Codec{}, nil
	case "minlz":
		return minLZCodec{}, nil
	case "s2":
		return s2Codec{}, nil
	case "zstd":
		// A frame's integrity is the seal's business; one window holds any chunk.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithZeroFrames(true), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("codec zstd: %w", err)
		}
		return zstdCodec{e}, nil
	case "none":
		return noneCodec{}, nil
	}
	return nil, fmt.Errorf("codec %q: not one of %v", name, Codecs())
}

// begin appends the head of a frame and makes room for room bytes of payload.
// It returns the grown dst and where the payload starts.
func begin(dst []byte, codec byte, rawLen, room int) ([]byte, int) {
	dst = slices.Grow(dst, Overhead+room)
	dst = append(dst, codec)
	dst = binary.AppendUvarint(dst, uint64(rawLen))
	return dst, len(dst)
}

// raw appends src as a frame of codec none.
func raw(dst, src []byte) []byte {
	dst, _ = begin(dst, codecNone, len(src), len(src))
	return append(dst, src...)
}

type noneCodec struct{}

func (noneCodec) Encode(dst, src []byte) []byte { return raw(dst, src) }

type s2Codec struct{}

func (s2Codec) Encode(dst, src []byte) []byte { return encodeS2(dst, src, len(src)-1) }

// encodeS2 stores src raw when S2 makes it longer than limit bytes.
func encodeS2(dst, src []byte, limit int) []byte {
	room := s2.MaxEncodedLen(len(src))
	if room < 0 { // longer than S2 can say (4 GiB)
		return raw(dst, src)
	}
	out, at := begin(dst, codecS2, len(src), room)
	block := s2.Encode(out[at:at+room], src)
	if len(block) > limit {
		return raw(dst, src)
	}
	return out[:at+len(block)]
}

type minLZCodec struct{}

func (minLZCodec) Encode(dst, src []byte) []byte { return encodeMinLZ(dst, src, len(src)-1) }

// encodeMinLZ stores src raw when MinLZ makes it longer than limit bytes. What is
// longer than a MinLZ block may be goes to S2, which knows longer ones.
func encodeMinLZ(dst, src []byte, limit int) []byte {
	room := minlz.MaxEncodedLen(len(src))
	if room < 0 {
		return encodeS2(dst, src, limit)
	}
	out, at := begin(dst, codecMinLZ, len(src), room)
	block, err := minlz.Encode(out[at:at+room], src, minlz.LevelFastest)
	if err != nil || len(block) > limit {
		return raw(dst, src)
	}
	return out[:at+len(block)]
}

type lz4Codec struct{ c lz4.Compressor }

func (l *lz4Codec) Encode(dst, src []byte) []byte {
	// Given exactly len(src) bytes of room, 0 means "does not shrink". Given the
	// bound instead, it reports incompressible blocks as longer ones.
	out, at := begin(dst, codecLZ4, len(src), len(src))
	n, err := l.c.CompressBlock(src, out[at:at+len(src)])
	if err != nil || n == 0 || n >= len(src) {
		return raw(dst, src)
	}
	return out[:at+n]
}

type zstdCodec struct{ e *zstd.Encoder }

func (z zstdCodec) Encode(dst, src []byte) []byte {
	out, at := begin(dst, codecZstd, len(src), len(src))
	out = z.e.EncodeAll(src, out)
	if len(out)-at >= len(src) {
		return raw(dst, src)
	}
	return out
}

// auto is MinLZ where it pays. 64 KiB of noise take it 5 µs, sample and copy, where
// the codec alone takes 8 (BenchmarkEncode).
type auto struct {
	sample [samplePieces * samplePiece]byte
	packed [2 * samplePieces * samplePiece]byte // ≥ minlz.MaxEncodedLen of the sample
}

const (
	samplePieces = 8
	samplePiece  = 256
	samplePage   = 4096
	// The least share of itself a chunk must save to be worth decompressing.
	worthwhile = 16
)

func (a *auto) Encode(dst, src []byte) []byte {
	if a.hopeless(src) {
		return raw(dst, src)
	}
	return encodeMinLZ(dst, src, len(src)-len(src)/worthwhile-1)
}

// hopeless reports that src looks like noise: its bytes are spread evenly, and
// MinLZ finds nothing to repeat in a sample of eight pieces. Small chunks are not
// sampled; the codec is as quick.
func (a *auto) hopeless(src []byte) bool {
	if len(src) < 4*len(a.sample) {
		return false
	}
	step := (len(src) - samplePiece) / (samplePieces - 1)
	if step > samplePage { // noise that repeats does so by file system blocks
		step &^= samplePage - 1
	}
	for i := range samplePieces {
		copy(a.sample[i*samplePiece:], src[i*step:i*step+samplePiece])
	}
	var counts [256]uint32
	for _, b := range a.sample {
		counts[b]++
	}
	// Noise of n bytes has Σ count² of about n + n²/256; text has many times that.
	var sum uint32
	for _, c := range counts {
		sum += c * c
	}
	const n = samplePieces * samplePiece
	if sum > (n+n*n/256)*9/8 {
		return false
	}
	packed, err := minlz.Encode(a.packed[:], a.sample[:], minlz.LevelFastest)
	return err == nil && len(packed) > n-n/worthwhile
}
