package vhdx

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sort"

	"github.com/millrace-backup/millrace/vdisk"
)

// patch is a change that the log makes to the file: data, or zeros where data
// is nil.
type patch struct {
	offset, end int64
	data        []byte
}

// view is the file as it is once its log has been replayed. Without a log it
// passes reads on.
type view struct {
	file    vdisk.Image
	size    int64   // after replay
	patches []patch // in order, without overlap
}

// newView puts changes, oldest first, over file, which grows to at least size.
func newView(file vdisk.Image, size int64, changes []patch) *view {
	v := &view{file: file, size: max(size, file.Size()), patches: settle(changes)}
	if n := len(v.patches); n > 0 {
		v.size = max(v.size, v.patches[n-1].end)
	}
	return v
}

// settle turns changes, of which later ones win, into patches in order that
// do not overlap. Every change is cut at the ends of all others; then, newest
// first, each takes the pieces that are still free. next leads from a piece
// to the first free one at or after it, so that a piece is visited once.
func settle(changes []patch) []patch {
	cuts := make([]int64, 0, 2*len(changes))
	for _, c := range changes {
		cuts = append(cuts, c.offset, c.end)
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
	var out []patch
	for _, c := range slices.Backward(changes) {
		first, _ := slices.BinarySearch(cuts, c.offset)
		for i := free(int32(first)); cuts[i] < c.end; i = free(i) {
			p := patch{offset: cuts[i], end: cuts[i+1]}
			if c.data != nil {
				p.data = c.data[p.offset-c.offset : p.end-c.offset]
			}
			out = append(out, p)
			next[i] = i + 1
		}
	}
	slices.SortFunc(out, func(a, b patch) int { return cmp.Compare(a.offset, b.offset) })
	return out
}

// touching returns the patches that overlap off..end.
func (v *view) touching(off, end int64) []patch {
	n := len(v.patches)
	if n == 0 || end <= v.patches[0].offset || off >= v.patches[n-1].end {
		return nil // the usual case: guest data is never logged
	}
	first := sort.Search(n, func(i int) bool { return v.patches[i].end > off })
	last := sort.Search(n, func(i int) bool { return v.patches[i].offset >= end })
	return v.patches[first:max(first, last)]
}

// ReadAt is io.ReaderAt on the replayed file.
func (v *view) ReadAt(p []byte, off int64) (int, error) {
	patches := v.touching(off, off+int64(len(p)))
	if len(patches) == 0 && off+int64(len(p)) <= v.file.Size() {
		return v.file.ReadAt(p, off)
	}
	in, end := vdisk.Window(p, off, v.size)
	stored := in[:max(0, min(int64(len(in)), v.file.Size()-off))]
	clear(in[len(stored):]) // what the log added to the file
	if n, err := v.file.ReadAt(stored, off); n < len(stored) {
		return n, err
	}
	for _, c := range patches {
		from, to := max(off, c.offset), min(off+int64(len(in)), c.end)
		if c.data == nil {
			clear(in[from-off : to-off])
		} else {
			copy(in[from-off:to-off], c.data[from-c.offset:])
		}
	}
	return len(in), end
}

// extents maps the bytes off..end of the replayed file. What the log changed
// is data; what it added to the end of the file is zero.
func (v *view) extents(ctx context.Context, off, end int64) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		for _, p := range v.touching(off, end) {
			from, to := max(off, p.offset), min(end, p.end)
			if !v.unchanged(ctx, off, from, yield) ||
				!yield(vdisk.Extent{Offset: from, Length: to - from, Kind: vdisk.Data}, nil) {
				return
			}
			off = to
		}
		v.unchanged(ctx, off, end, yield)
	}
}

// unchanged yields what the file itself has from off to end. It reports
// whether to go on.
func (v *view) unchanged(ctx context.Context, off, end int64, yield func(vdisk.Extent, error) bool) bool {
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
