// Package gather writes the pieces of a disk in runs. A chunk is a piece of some tens
// of KiB; of a patchwork of many small backups a cell has hundreds, out of as many
// places of dozens of packs. A write for each would cost more than reading them, and
// none would go past the page cache. Their bytes are put in their places in memory,
// and what lies side by side is written at once.
package gather

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/millrace-backup/millrace/vdisk/direct"
)

// Writer writes one window of a disk after the other. It is for one goroutine.
type Writer struct {
	to   io.WriterAt
	room []byte // of the disk, from offset from on
	from int64
	held []held // what is in room and not yet written
}

type held struct{ from, to int64 }

// New returns a Writer onto to.
func New(to io.WriterAt) *Writer { return &Writer{to: to} }

// most is how long in bytes a write is; it ends at a multiple of that. Longer
// ones take nearly twice the system time by way of the page cache, see
// docs/performance.md, and are no faster past it.
const most = 1 << 20

// Begin prepares for the pieces of the window bytes around offset first. Windows
// lie at multiples of their length.
func (w *Writer) Begin(first, window int64) {
	w.held, w.from = w.held[:0], first/window*window
	if int64(len(w.room)) != window {
		w.room = direct.Buffer(int(window))
	}
}

// Put takes the bytes at an offset of the disk. They are only lent. Pieces may
// come in any order and do not overlap.
func (w *Writer) Put(at int64, b []byte) error {
	if n := at - w.from; n >= 0 && n+int64(len(b)) <= int64(len(w.room)) {
		copy(w.room[n:], b)
		w.held = append(w.held, held{at, at + int64(len(b))})
		return nil
	}
	return w.write(b, at)
}

// End writes what is held, in order.
func (w *Writer) End() error {
	slices.SortFunc(w.held, func(a, b held) int { return cmp.Compare(a.from, b.from) })
	for n := 0; n < len(w.held); {
		from, to := w.held[n].from, w.held[n].from
		for ; n < len(w.held) && w.held[n].from == to; n++ {
			to = w.held[n].to
		}
		for from < to {
			end := min(to, (from/most+1)*most)
			if err := w.write(w.room[from-w.from:end-w.from], from); err != nil {
				return err
			}
			from = end
		}
	}
	w.held = w.held[:0]
	return nil
}

func (w *Writer) write(b []byte, at int64) error {
	if _, err := w.to.WriteAt(b, at); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(b), at, err)
	}
	return nil
}
