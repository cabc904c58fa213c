package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/minio/minlz"
	"github.com/pierrec/lz4/v4"
)

// MaxContent is the longest content of a frame in bytes that Decode can be asked
// to accept.
const MaxContent = 16 << 20

// Decoder undoes what any [Codec] did. The zero value is ready; it may be used
// from many goroutines, and keeps its Zstandard state between calls.
type Decoder struct {
	once sync.Once
	zstd *zstd.Decoder
	err  error
}

// Decode appends the content of frame to dst. A frame that is malformed, or says
// it holds more than maxRaw bytes, is ErrDamaged; no more than that is ever
// allocated. dst with enough capacity is not moved. On error dst's spare room
// may have been written to.
func (d *Decoder) Decode(dst, frame []byte, maxRaw int) ([]byte, error) {
	if len(frame) < 2 {
		return nil, fmt.Errorf("frame of %d bytes: %w", len(frame), ErrDamaged)
	}
	codec, rawLen, payload, err := splitFrame(frame)
	if err != nil {
		return nil, err
	}
	if rawLen > uint64(max(min(maxRaw, MaxContent), 0)) {
		return nil, fmt.Errorf("frame of %d bytes content, at most %d expected: %w", rawLen, maxRaw, ErrDamaged)
	}
	raw := int(rawLen)
	if codec == codecNone {
		if len(payload) != raw {
			return nil, fmt.Errorf("frame says %d bytes, holds %d: %w", raw, len(payload), ErrDamaged)
		}
		if dst == nil {
			dst = make([]byte, 0, raw)
		}
		return append(dst, payload...), nil
	}
	if raw == 0 || len(payload) >= raw { // every encoder stores these raw
		return nil, fmt.Errorf("frame of codec %d holds %d bytes for %d: %w", codec, len(payload), raw, ErrDamaged)
	}
	at := len(dst)
	dst = slices.Grow(dst, raw)
	room := dst[at : at+raw : at+raw]
	if err := d.expand(codec, room, payload); err != nil {
		return nil, err
	}
	return dst[:at+raw], nil
}

// splitFrame takes a frame apart. The length must be written the shortest way,
// so that one content has one frame of each codec.
func splitFrame(frame []byte) (codec byte, rawLen uint64, payload []byte, err error) {
	rawLen, n := binary.Uvarint(frame[1:])
	if n <= 0 || n > 1 && frame[n] == 0 {
		return 0, 0, nil, fmt.Errorf("frame: no length: %w", ErrDamaged)
	}
	return frame[0], rawLen, frame[1+n:], nil
}

// expand fills exactly out.
func (d *Decoder) expand(codec byte, out, payload []byte) error {
	var n int
	var err error
	switch codec {
	case codecLZ4:
		n, err = lz4.UncompressBlock(payload, out)
	case codecS2:
		// Asked first: s2.Decode makes a buffer of whatever length the block names.
		if n, err = s2.DecodedLen(payload); err == nil && n == len(out) {
			_, err = s2.Decode(out, payload)
		}
	case codecMinLZ:
		n, err = expandMinLZ(out, payload)
	case codecZstd:
		n, err = d.expandZstd(out, payload)
	default:
		return fmt.Errorf("frame of codec %d: %w", codec, ErrNewer)
	}
	if err != nil {
		return fmt.Errorf("frame of codec %d: %v: %w", codec, err, ErrDamaged)
	}
	if n != len(out) {
		return fmt.Errorf("frame of codec %d says %d bytes, holds %d: %w", codec, len(out), n, ErrDamaged)
	}
	return nil
}

// expandMinLZ asks first: minlz.Decode takes blocks of Snappy and S2 for its own,
// and makes a buffer of whatever length one names. One content has one frame of
// each codec.
func expandMinLZ(out, payload []byte) (int, error) {
	ours, n, err := minlz.IsMinLZ(payload)
	if err != nil || n != len(out) {
		return n, err
	}
	if !ours {
		return 0, errors.New("not a block of MinLZ")
	}
	_, err = minlz.Decode(out, payload)
	return n, err
}

func (d *Decoder) expandZstd(out, payload []byte) (int, error) {
	d.once.Do(func() {
		// With the cap limit no frame can make DecodeAll allocate its output.
		d.zstd, d.err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
			zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(MaxContent), zstd.WithDecoderMaxWindow(MaxContent))
	})
	if d.err != nil {
		return 0, d.err
	}
	got, err := d.zstd.DecodeAll(payload, out[:0])
	if err == nil && len(got) == len(out) && &got[0] != &out[0] {
		copy(out, got) // cannot happen under the cap limit; costs nothing to be sure
	}
	return len(got), err
}

// Decode is [Decoder.Decode] for the odd frame: many zstd frames want one
// Decoder.
func Decode(dst, frame []byte, maxRaw int) ([]byte, error) {
	return new(Decoder).Decode(dst, frame, maxRaw)
}
