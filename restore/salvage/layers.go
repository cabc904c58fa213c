package salvage

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/millrace-backup/millrace/restore"
)

// layer is bytes of one chunk on a disk; of two, the later in a list lies on top.
type layer struct {
	restore.Range
	lost bool
}

// onTop looks at layers from above: how many bytes are covered by one that could be
// read, and which places by one that is lost, in order and apart.
func onTop(layers []layer) (covered int64, lost []restore.Range) {
	order := make([]int, len(layers)) // by offset
	edges := make([]int64, 0, 2*len(layers))
	for i, l := range layers {
		order[i] = i
		edges = append(edges, l.Offset, l.Offset+l.Length)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(layers[a].Offset, layers[b].Offset) })
	slices.Sort(edges)
	edges = slices.Compact(edges)
	var here heights // begun, and not known to have ended
	for n, at := range edges {
		for len(order) > 0 && layers[order[0]].Offset == at {
			heap.Push(&here, order[0])
			order = order[1:]
		}
		for len(here) > 0 && layers[here[0]].Offset+layers[here[0]].Length <= at {
			heap.Pop(&here)
		}
		if len(here) == 0 {
			continue
		}
		top, length := layers[here[0]], edges[n+1]-at // what is here ends at a later edge
		if !top.lost {
			covered += length
			continue
		}
		if last := len(lost) - 1; last >= 0 && lost[last].Offset+lost[last].Length == at {
			lost[last].Length += length
			continue
		}
		lost = append(lost, restore.Range{Disk: top.Disk, Offset: at, Length: length})
	}
	return covered, lost
}

// heights is a heap of numbers of layers, the highest first.
type heights []int

func (h heights) Len() int           { return len(h) }
func (h heights) Less(i, j int) bool { return h[i] > h[j] }
func (h heights) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heights) Push(x any)        { *h = append(*h, x.(int)) }
func (h *heights) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
