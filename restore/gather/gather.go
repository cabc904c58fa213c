// Package gather writes the pieces of a patchwork: many small backups leave a cell
// of a disk in hundreds of pieces, out of as many places of dozens of packs, and a
// write for each would cost more than reading them. Their bytes are put in their
// places in memory, and what lies side by side is written at once.
package gather

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// Writer writes one window of a disk after the other. It is for one goroutine.
type Writer struct {
	to   io.WriterAt
	room []byte // of the disk, from offset from on
	from int64
	held []held // what is in room and not yet written
	used bool   // for this window
}

type held struct{ from, to int64 }

// New returns a Writer onto to.
func New(to io.WriterAt) *Writer { return &Writer{to: to} }

// least is the mean length of pieces in bytes below which they are gathered. What a
// cutter makes is twice as long.
const least = 32 << 10

// most is the length in bytes from which on a run is written. Restores with
// writes of up to 8 MiB took nearly twice the system time; see docs/performance.md.
const most = 1 << 20

// Begin prepares for so many pieces, the first of them at offset first, of the
// window bytes around it. Windows lie at multiples of their length. Where pieces
// are few each is written when it comes.
func (w *Writer) Begin(pieces int, first, window int64) {
	w.held, w.used = w.held[:0], int64(pieces) > window/least
	if !w.used {
		return
	}
	w.from = first / window * window
	if int64(len(w.room)) != window {
		w.room = make([]byte, window)
	}
}

// Put takes the bytes at an offset of the disk. They are only lent. Pieces may
// come in any order and do not overlap.
func (w *Writer) Put(at int64, b []byte) error {
	if n := at - w.from; w.used && n >= 0 && n+int64(len(b)) <= int64(len(w.room)) {
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
		for ; n < len(w.held) && w.held[n].from == to && to-from < most; n++ {
			to = w.held[n].to
		}
		if err := w.write(w.room[from-w.from:to-w.from], from); err != nil {
			return err
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
