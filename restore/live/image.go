package live

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vdisk"
)

// Image is a disk of a point. It is a vdisk.Image, for any number of goroutines.
type Image struct {
	ctx    context.Context
	cancel context.CancelFunc
	v      *vault.Vault
	m      *table.Map
	cache  *Cache
	spare  sync.Pool // of *tools
	runs   runs
	behind sync.WaitGroup // readers ahead
}

// Open opens a disk of a point. It needs the vault's PartMeta, PartData and PartIDs. When
// ctx ends all reading does; so it does with Close.
func (c *Cache) Open(ctx context.Context, v *vault.Vault, d events.PointDisk) (*Image, error) {
	m, err := table.OpenMap(ctx, v, d)
	if err != nil {
		return nil, fmt.Errorf("open disk %s: %w", d.Key, err)
	}
	out := &Image{v: v, m: m, cache: c}
	out.ctx, out.cancel = context.WithCancel(ctx)
	return out, nil
}

// Close ends what is read ahead. What the cache holds stays.
func (m *Image) Close() error {
	m.cancel()
	m.behind.Wait()
	return nil
}

// Size is the disk's, in bytes.
func (m *Image) Size() int64 { return m.m.Size() }

// Extents lists what is where: what has no chunk is zeros.
func (m *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		if from < 0 || to < from || to > m.Size() {
			yield(vdisk.Extent{}, fmt.Errorf("bytes %d to %d of a disk of %d", from, to, m.Size()))
			return
		}
		var now vdisk.Extent
		for p, err := range m.m.Range(ctx, from, to) {
			if err != nil {
				yield(vdisk.Extent{}, err)
				return
			}
			kind := vdisk.Data
			if p.Zero {
				kind = vdisk.Zero
			}
			if now.Length > 0 && now.Kind == kind {
				now.Length += p.Length
				continue
			}
			if now.Length > 0 && !yield(now, nil) {
				return
			}
			now = vdisk.Extent{Offset: p.Offset, Length: p.Length, Kind: kind}
		}
		if now.Length > 0 {
			yield(now, nil)
		}
	}
}

// part is what of a read lies in one chunk.
type part struct {
	entry *entry
	at    int64 // in the chunk
	to    []byte
}

// ReadAt reads as io.ReaderAt says.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	short := off+int64(len(p)) > m.Size()
	if short {
		p = p[:max(0, m.Size()-off)]
	}
	if len(p) > 0 {
		if next, length := m.runs.seen(off, int64(len(p)), m.Size()); length > 0 {
			m.readAhead(next, length)
		}
	}
	for done := 0; done < len(p); {
		n := min(len(p)-done, mostAtOnce)
		if err := m.read(p[done:done+n], off+int64(done)); err != nil {
			return done, fmt.Errorf("read %d bytes at %d: %w", n, off+int64(done), err)
		}
		done += n
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// mostAtOnce bounds what a single read fetches at a time: the chunks it is about to copy
// from are held by it, in the cache or not.
const mostAtOnce = 4 << 20

func (m *Image) read(p []byte, off int64) error {
	var few [8]part
	var fewer [8]missing
	parts, want := few[:0], fewer[:0]
	var err error
	for piece, rangeErr := range m.m.Range(m.ctx, off, off+int64(len(p))) {
		if err = rangeErr; err != nil {
			break
		}
		to := p[piece.Offset-off : piece.Offset-off+piece.Length]
		if piece.Zero {
			clear(to)
			continue
		}
		if err = check(piece); err != nil {
			break
		}
		e, mine := m.cache.get(piece.Chunk, false)
		if mine {
			want = append(want, missing{piece, e})
		}
		parts = append(parts, part{e, piece.ChunkOffset, to})
	}
	// What was promised to others is brought, whether we can go on or not.
	if len(want) > 0 {
		m.fetch(m.ctx, want)
	}
	if err != nil {
		return err
	}
	for _, part := range parts {
		plain, err := part.entry.await(m.ctx)
		if err != nil {
			return err
		}
		if part.at+int64(len(part.to)) > int64(len(plain)) {
			return fmt.Errorf("chunk %s has %d bytes, the map wants those to %d: %w", part.entry.chunk, len(plain), part.at+int64(len(part.to)), vault.ErrDamaged)
		}
		copy(part.to, plain[part.at:])
	}
	return nil
}

// Want brings a range into memory, as far as it is not there. It returns how many bytes of
// the disk that were, zeros not counted.
func (m *Image) Want(ctx context.Context, off, length int64) (int64, error) {
	var want []missing
	var n int64
	var err error
	for piece, rangeErr := range m.m.Range(ctx, max(off, 0), min(off+length, m.Size())) {
		if err = rangeErr; err == nil && !piece.Zero {
			err = check(piece)
		}
		if err != nil {
			break
		}
		if piece.Zero {
			continue
		}
		if e, mine := m.cache.get(piece.Chunk, true); mine {
			want = append(want, missing{piece, e})
			n += piece.Length
		}
	}
	if len(want) > 0 {
		m.fetch(m.ctx, want)
	}
	for _, w := range want {
		if w.entry.err != nil && err == nil {
			err = w.entry.err
		}
	}
	return n, err
}
