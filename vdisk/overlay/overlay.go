// Package overlay lays changes over a disk image without writing to it: what
// the log of a damaged or unfinished file would change is seen as if it had
// been replayed.
//
// Call [New] with the image and the changes, oldest first. The result is a
// [vdisk.Image] of its own, which reads from the one below as long as it is
// used. Where changes overlap the later one wins; they are sorted out once, so
// that a read looks only at what it touches. Nothing is copied: the bytes of a
// [Patch] must stay as they are.
//
// An overlay may be used from many goroutines. It is not a write buffer: no
// change is added once it exists.
package overlay

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sort"

	"github.com/millrace-backup/millrace/vdisk"
)

// Patch is a change: data, or zeros where Data is nil.
type Patch struct {
	Offset, End int64
	Data        []byte
}

// Image is a disk with changes over it; it is a [vdisk.Image]. Without changes
// it passes reads on.
type Image struct {
	file    vdisk.Image
	size    int64   // with what the changes add
	patches []Patch // in order, without overlap
}

// New puts changes, oldest first, over file, which grows to at least size and
// to the end of the last change. No change may end before it begins.
func New(file vdisk.Image, size int64, changes []Patch) *Image {
	v := &Image{file: file, size: max(size, file.Size()), patches: settle(changes)}
	if n := len(v.patches); n > 0 {
		v.size = max(v.size, v.patches[n-1].End)
	}
	return v
}

// settle turns changes, of which later ones win, into patches in order that
// do not overlap. Every change is cut at the ends of all others; then, newest
// first, each takes the pieces that are still free. next leads from a piece
// to the first free one at or after it, so that a piece is visited once.
func settle(changes []Patch) []Patch {
	cuts := make([]int64, 0, 2*len(changes))
	for _, c := range changes {
		cuts = append(cuts, c.Offset, c.End)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)

	next := make([]int32, len(cuts)+1)
	for i := range next {
		next[i] = int32(i)
	}
	free := func(i int32) int32 {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	out := make([]Patch, 0, len(changes))
	for _, c := range slices.Backward(changes) {
		first, _ := slices.BinarySearch(cuts, c.Offset)
		for i := free(int32(first)); cuts[i] < c.End; i = free(i) {
			p := Patch{Offset: cuts[i], End: cuts[i+1]}
			if c.Data != nil {
				p.Data = c.Data[p.Offset-c.Offset : p.End-c.Offset]
			}
			out = append(out, p)
			next[i] = i + 1
		}
	}
	slices.SortFunc(out, func(a, b Patch) int { return cmp.Compare(a.Offset, b.Offset) })
	return out
}

// touching returns the patches that overlap off..end.
func (v *Image) touching(off, end int64) []Patch {
	n := len(v.patches)
	if n == 0 || end <= v.patches[0].Offset || off >= v.patches[n-1].End {
		return nil // the usual case: guest data is never logged
	}
	first := sort.Search(n, func(i int) bool { return v.patches[i].End > off })
	last := sort.Search(n, func(i int) bool { return v.patches[i].Offset >= end })
	return v.patches[first:max(first, last)]
}

// Patches are the changes, in order and without overlap.
func (v *Image) Patches() []Patch { return v.patches }

// Size is the size of the disk with the changes.
func (v *Image) Size() int64 { return v.size }

// ReadAt is io.ReaderAt on the changed disk.
func (v *Image) ReadAt(p []byte, off int64) (int, error) {
	patches := v.touching(off, off+int64(len(p)))
	if len(patches) == 0 && off+int64(len(p)) <= v.file.Size() {
		return v.file.ReadAt(p, off)
	}
	in, end := vdisk.Window(p, off, v.size)
	if len(in) == 0 {
		return 0, end
	}
	stored := in[:max(0, min(int64(len(in)), v.file.Size()-off))]
	clear(in[len(stored):]) // what the changes added to the disk
	if n, err := v.file.ReadAt(stored, off); n < len(stored) {
		return n, err
	}
	for _, c := range patches {
		from, to := max(off, c.Offset), min(off+int64(len(in)), c.End)
		if c.Data == nil {
			clear(in[from-off : to-off])
		} else {
			copy(in[from-off:to-off], c.Data[from-c.Offset:])
		}
	}
	return len(in), end
}

// Extents maps the changed disk. What was changed is data, zeros included where
// they replace data; what was added to the end of the disk is zero.
func (v *Image) Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error] {
	patches := v.touching(from, to)
	if len(patches) == 0 && to <= v.file.Size() {
		return v.file.Extents(ctx, from, to)
	}
	return vdisk.Merge(func(yield func(vdisk.Extent, error) bool) {
		if err := vdisk.CheckRange(v.size, from, to); err != nil {
			yield(vdisk.Extent{}, err)
			return
		}
		off := from
		for _, p := range patches {
			first, end := max(off, p.Offset), min(to, p.End)
			if err := ctx.Err(); err != nil {
				yield(vdisk.Extent{}, err)
				return
			}
			if !v.unchanged(ctx, off, first, yield) ||
				!yield(vdisk.Extent{Offset: first, Length: end - first, Kind: vdisk.Data}, nil) {
				return
			}
			off = end
		}
		v.unchanged(ctx, off, to, yield)
	})
}

// unchanged yields what the disk below has from off to end. It reports
// whether to go on.
func (v *Image) unchanged(ctx context.Context, off, end int64, yield func(vdisk.Extent, error) bool) bool {
	stored := max(off, min(end, v.file.Size()))
	if stored > off {
		for e, err := range v.file.Extents(ctx, off, stored) {
			if !yield(e, err) || err != nil {
				return false
			}
		}
	}
	return yield(vdisk.Extent{Offset: stored, Length: end - stored, Kind: vdisk.Zero}, nil)
}
