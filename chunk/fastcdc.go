package chunk

import (
	"bytes"
	"fmt"
	"io"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the name FastCDC
)

// fastCDC runs the library over each stretch of data by itself.
type fastCDC struct {
	lib *chunkers.Chunker
	in  bytes.Reader
}

func newFastCDC(p Params, cutKey [32]byte) (*fastCDC, error) {
	f := new(fastCDC)
	lib, err := chunkers.NewChunker(FastCDC, &f.in, &chunkers.ChunkerOpts{
		MinSize: int(p.Min), NormalSize: int(p.Normal), MaxSize: int(p.Max), Key: derive(FastCDC, cutKey, 32),
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrParams, FastCDC, err)
	}
	f.lib = lib
	return f, nil
}

func (f *fastCDC) split(cell []byte, from, to int, dst []Piece) []Piece {
	f.in.Reset(cell[from:to])
	f.lib.Reset(&f.in)
	for from < to {
		// The last piece may come together with io.EOF. No other error can come
		// from a reader of memory, and no empty piece before the end.
		b, err := f.lib.Next()
		if len(b) == 0 || len(b) > to-from || err != nil && err != io.EOF {
			panic(fmt.Sprintf("chunk: internal error: %s gave %d bytes of %d and %v", FastCDC, len(b), to-from, err))
		}
		dst = append(dst, Piece{Offset: int64(from), Length: int64(len(b))})
		from += len(b)
	}
	f.in.Reset(nil)
	return dst
}
