package snapshot

import (
	"encoding/binary"
	"iter"

	"github.com/millrace-backup/millrace/vdisk"
)

// maxKept is the most memory for what a tracker has told, in bytes: a change takes two
// to six. Beyond it, the tracker is asked each time.
const maxKept = 16 << 20

// kept is what a tracker has told of a disk, so that it is asked once: on a huge disk the
// asking is most of what a job takes. It is a row of numbers, of blocks: how many are
// unchanged, how many changed, and so on.
type kept struct {
	b     []byte
	end   int64 // block behind the last change
	over  bool  // there was too much
	whole bool  // it is all that there is
}

// add adds a change behind the ones before it.
func (k *kept) add(from, to int64) {
	if k.over = k.over || len(k.b) > maxKept; k.over {
		k.b = nil
		return
	}
	k.b = binary.AppendUvarint(k.b, uint64(from-k.end))
	k.b = binary.AppendUvarint(k.b, uint64(to-from))
	k.end = to
}

// all lists the changes on a disk of a size, in blocks of one.
func (k *kept) all(block, size int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		at := int64(0)
		for b := k.b; len(b) > 0; {
			gap, n := binary.Uvarint(b)
			length, m := binary.Uvarint(b[n:])
			b = b[n+m:]
			from := at + int64(gap)
			at = from + int64(length)
			if !yield(vdisk.Extent{Offset: from * block, Length: min(at*block, size) - from*block}, nil) {
				return
			}
		}
	}
}
