// Package restore reads points back: whole disks, onto anything that can be
// written to, and checks that a point could be restored without restoring it.
//
// [Raw] makes a disk file, raw or of a format that the caller brings, [Disk] writes a disk onto a [Target], [Verify]
// follows every reference of a point and reads as much of it as asked.
//
// Words. A *piece* is a range of a disk that lies in one chunk, or is zeros. A
// *batch* is the pieces of two cells or so: what one worker takes at a time, so
// that a chunk which many pieces of a cell use is read and decoded once. A *span*
// is a stretch of a pack read with one request. Chunks that turn out to be used
// again and again (the same file twice on a disk) are kept in a small cache.
//
// What is guaranteed: no byte is written that did not pass the AEAD, the frame
// and the chunk's id. Zeros are never written, so what was a hole stays one on a
// target that starts out as zeros. Damage is vault.ErrDamaged, with the object,
// the chunk and the place on the disk in the message; one damaged chunk fails
// Disk and Raw, and is one entry in Verify's report. A file made by Raw appears
// under its name only whole and durable.
//
// Concurrency and memory: each call starts workers of its own and ends them
// before it returns; their reads ahead hold at most 64 MiB together, whatever
// the packs say. Pieces are written in no particular order.
//
// A restore needs no write access to the vault. The package writes no facts, pins
// nothing, prints nothing and knows no disk format but raw.
package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/millrace-backup/millrace/vault"
)

// The errors a caller decides by, besides vault.ErrDamaged.
var (
	// ErrExists: something is where the file should go; it was not touched.
	// errors.Is(err, fs.ErrExist) holds too.
	ErrExists = fmt.Errorf("already exists: %w", fs.ErrExist)
	// ErrNotFile: what is there is no ordinary file, so not even Force replaces it.
	ErrNotFile = errors.New("not an ordinary file")
	// ErrForm: the format that was asked for cannot hold this disk.
	ErrForm = errors.New("the disk does not fit the format")
)

// Target is what a disk is written onto: at least as long as the disk, all zeros
// where nothing is written. WriteAt is called from several goroutines, for ranges
// that do not overlap.
type Target interface{ io.WriterAt }

// Options of all that this package does. The zero value is right.
type Options struct {
	// Workers read, decode and write at the same time; 0 means two more than
	// there are processors, so that some may wait for the disk.
	Workers int
	// Progress is told now and then how far the work is. Calls do not overlap.
	Progress func(Progress)
	// Lost, if it is set, is told of every range of the disk that cannot be read, and
	// why; Disk and Raw then go on and leave zeros there. Calls do not overlap.
	Lost func(Range, error)
	// ReadPercent is how many of a point's chunks Verify reads and decodes, 0 to
	// 100. At 100 each is read once.
	ReadPercent int
	// Seed picks which, if not all: another seed, another sample.
	Seed uint64
}

// Progress of a call, in bytes. Size and Done count disks, holes included;
// Written what went to the target; Read what came from packs.
type Progress struct{ Size, Done, Written, Read int64 }

const (
	maxWorkers = 12       // times a span and a chunk: below readAhead
	readAhead  = 64 << 20 // bytes of sealed and decoded chunks in all workers
	spanLimit  = 4 << 20  // bytes of one read, unless one chunk is longer
	spanGap    = 64 << 10 // bytes worth reading in vain to save a request
	keepLimit  = 16 << 20 // bytes of chunks kept because they come again
)

func (o Options) workers() int {
	if o.Workers <= 0 {
		return min(runtime.GOMAXPROCS(0)+2, maxWorkers)
	}
	return min(o.Workers, maxWorkers)
}

// errMissing is damage that is an absent object.
var errMissing = fmt.Errorf("the pack is missing: %w", vault.ErrDamaged)

// damaged reports bytes that are wrong, or not there, saying what of.
func damaged(object, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", object, fmt.Sprintf(format, args...), vault.ErrDamaged)
}

// asDamage makes sure that an error is called damage. It is for what the vault
// promised to have and to understand.
func asDamage(err error) error {
	if errors.Is(err, vault.ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", err, vault.ErrDamaged)
}
