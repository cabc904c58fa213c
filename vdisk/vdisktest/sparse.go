package vdisktest

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
)

// sparsePage is the grain of a Sparse image's memory and of its map.
const sparsePage = 4096

// Sparse is a disk in memory, of which only the written parts take space. It
// is a vdisk.Image; a page of 4 KiB counts as data once it was written, even
// with zeros. Any number of goroutines may use it.
type Sparse struct {
	mu    sync.RWMutex // guards all below
	size  int64
	pages map[int64][]byte
}

// NewSparse returns a disk of zeros.
func NewSparse(size int64) *Sparse {
	return &Sparse{size: size, pages: map[int64][]byte{}}
}

// FromBytes returns a disk with the bytes b; pages of zeros are holes.
func FromBytes(b []byte) *Sparse {
	s := NewSparse(int64(len(b)))
	var zeros [sparsePage]byte
	for off := 0; off < len(b); off += sparsePage {
		if p := b[off:min(off+sparsePage, len(b))]; !bytes.Equal(p, zeros[:len(p)]) {
			_, _ = s.WriteAt(p, int64(off)) // inside the size
		}
	}
	return s
}

// Size is the size of the disk.
func (s *Sparse) Size() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.size
}

// Truncate sets the size. What is cut off is lost.
func (s *Sparse) Truncate(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, p := range s.pages {
		if keep := size - n*sparsePage; keep <= 0 {
			delete(s.pages, n)
		} else if keep < sparsePage {
			clear(p[keep:])
		}
	}
	s.size = size
}

// WriteAt is io.WriterAt inside the disk; it does not grow it.
func (s *Sparse) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off < 0 || off+int64(len(p)) > s.size {
		return 0, fmt.Errorf("write %d bytes at %d: outside a disk of %d", len(p), off, s.size)
	}
	done := 0
	for done < len(p) {
		n, inside := (off+int64(done))/sparsePage, (off+int64(done))%sparsePage
		if s.pages[n] == nil {
			s.pages[n] = make([]byte, sparsePage)
		}
		done += copy(s.pages[n][inside:], p[done:])
	}
	return done, nil
}

// ReadAt is io.ReaderAt on the disk.
func (s *Sparse) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	in, end := vdisk.Window(p, off, s.size)
	done := 0
	for done < len(in) {
		n, inside := (off+int64(done))/sparsePage, (off+int64(done))%sparsePage
		part := in[done:min(int64(len(in)), int64(done)+sparsePage-inside)]
		if page := s.pages[n]; page != nil {
			copy(part, page[inside:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return done, end
}

// Extents lists written pages as data.
func (s *Sparse) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		err := vdisk.CheckRange(s.Size(), from, to)
		for off := from; err == nil && off < to; {
			if err = ctx.Err(); err != nil {
				break
			}
			e := s.extent(off, to)
			if !yield(e, nil) {
				return
			}
			off = e.End()
		}
		if err != nil {
			yield(vdisk.Extent{}, err)
		}
	})
}

// extent returns the written page at off, or the hole there, up to to. Where
// holes are longer than there are written pages, it looks through the pages.
func (s *Sparse) extent(off, to int64) vdisk.Extent {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := off / sparsePage
	e := vdisk.Extent{Offset: off, Length: min(to, (n+1)*sparsePage) - off, Kind: vdisk.Data}
	if s.pages[n] != nil {
		return e
	}
	e.Kind = vdisk.Zero
	next := (to + sparsePage - 1) / sparsePage
	if next-n > int64(len(s.pages)) {
		for i := range s.pages {
			if i > n && i < next {
				next = i
			}
		}
	} else {
		for i := n + 1; i < next; i++ {
			if s.pages[i] != nil {
				next = i
			}
		}
	}
	e.Length = min(to, next*sparsePage) - off
	return e
}
