package chunker

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// tracked is a model whose disk is read by what a tracker says.
type tracked struct {
	*model
	was []byte // the disk at the job before
	rnd *rand.Rand
	// careless: what is known of blocks gets lost, and cells are read whole for no reason.
	careless bool
}

// reported is which blocks are reported as changed: those that are, all others in their
// unit, and some more.
func (m *tracked) reported(unit int) []bool {
	out := make([]bool, (len(m.disk)+4095)/4096)
	for n := range out {
		from, to := n*4096, min((n+1)*4096, len(m.disk))
		if bytes.Equal(m.disk[from:to], m.was[from:to]) && m.rnd.IntN(300) > 0 {
			continue
		}
		for k := n / unit * unit; k < min((n/unit+1)*unit, len(out)); k++ {
			out[k] = true
		}
	}
	return out
}

// increment is a job that reads what is reported, and cells that somebody wants whole. What
// is not read holds anything. It returns how many bytes have changed.
func (m *tracked) increment(point byte, unit int) (changed int64) {
	m.t.Helper()
	s := newStage(&m.work, makeStage(m.t, chunk.Aligned).Tools)
	defer s.known.close()
	k := sidecar.NewKeeper(&m.work, filepath.Join(m.t.TempDir(), "job"))
	dirty := m.reported(unit)
	for n := range dirty {
		from, to := n*4096, min((n+1)*4096, len(m.disk))
		if !bytes.Equal(m.disk[from:to], m.was[from:to]) {
			changed += int64(to - from)
		}
	}
	m.stored = 0
	read := map[int64]bool{}
	for at := int64(0); at < int64(len(m.disk)); at += cellSize {
		p := &flow.Parcel{Number: uint32(at / cellSize), Offset: at, Length: min(cellSize, int64(len(m.disk))-at), Partial: true}
		now := m.disk[at : at+p.Length]
		b := bytes.Repeat([]byte{0xdb}, len(now))
		whole := m.careless && m.rnd.IntN(20) == 0
		for n := at / 4096; n*4096 < at+p.Length; n++ {
			if !dirty[n] && !whole {
				continue
			}
			from, to := n*4096, min((n+1)*4096, at+p.Length)
			copy(b[from-at:], m.disk[from:to])
			if last := len(p.Runs) - 1; last >= 0 && p.Runs[last].Offset+p.Runs[last].Length == from {
				p.Runs[last].Length += to - from
			} else {
				p.Runs = append(p.Runs, flow.Run{Offset: from, Length: to - from})
			}
		}
		if len(p.Runs) == 0 {
			continue
		}
		read[at/cellSize] = true
		if err := s.parcel(p, b); err != nil {
			m.t.Fatal(err)
		}
		k.Keep(&flow.Parcel{Number: p.Number, Offset: p.Offset, Length: p.Length, Sum: p.Sum, Pieces: p.Pieces, Blocks: p.Blocks})
		m.take(s, p, now)
	}
	if !bytes.Equal(m.restored, m.disk) {
		m.t.Fatalf("job %d: the map gives another disk", point)
	}
	c := events.PointCommitted{Point: id.Point{point}, Disks: []events.PointDisk{{Root: events.Hash{point}}}}
	k.Commit(&c, func(_ uint32, cell int64) sidecar.Left {
		if read[cell] {
			return sidecar.LeftLost
		}
		return sidecar.LeftSame
	})
	m.work.Guests[0].Parent, m.work.Disks[0].Parent = c.Point, &c.Disks[0]
	m.was = bytes.Clone(m.disk)
	return changed
}

// However a disk changes, and whatever is reported besides: what is kept is as it was.
// Nothing is stored but what has changed, as long as nothing gets lost.
func TestPartial(t *testing.T) {
	for _, unit := range []int{1, 16} {
		for _, careless := range []bool{false, true} {
			partialJobs(t, unit, careless)
		}
	}
}

func partialJobs(t *testing.T, unit int, careless bool) {
	size := int64(5*cellSize + 4096*3 + 777)
	m := &tracked{model: &model{t: t, restored: make([]byte, size), disk: make([]byte, size), folder: t.TempDir()}, rnd: rand.New(rand.NewPCG(5, uint64(unit))), careless: careless}
	m.work = flow.Work{Guests: make([]flow.WorkGuest, 1), Disks: []flow.WorkDisk{{Info: events.DiskInfo{VirtualSize: size}}}}
	noise := rand.NewChaCha8([32]byte{5})
	_, _ = noise.Read(m.disk[:3*cellSize])
	m.job(chunk.Aligned, 1, 1)
	m.was = bytes.Clone(m.disk)
	for job := byte(2); job < 60; job++ {
		if careless && job%10 == 0 {
			if err := os.RemoveAll(m.folder); err != nil {
				t.Fatal(err)
			}
		}
		switch job % 5 {
		case 0:
			at := m.rnd.IntN(int(size) - 100<<10)
			clear(m.disk[at : at+m.rnd.IntN(100<<10)])
		case 1:
			at := m.rnd.IntN(int(size) - 100<<10)
			_, _ = noise.Read(m.disk[at : at+m.rnd.IntN(100<<10)])
		case 2: // nearly all blocks of a cell, and not all
			for n := range cellSize/4096 - 1 {
				_, _ = noise.Read(m.disk[2*cellSize+n*4096:][:4096])
			}
		default:
			for range 10 {
				at := m.rnd.IntN(int(size)/4096) * 4096
				_, _ = noise.Read(m.disk[at : at+4096])
			}
		}
		changed := m.increment(job, unit)
		if changed > cellSize/2 { // a cell that was read to its last block is cut afresh
			changed += 4096
		}
		if !careless && m.stored > changed {
			t.Errorf("unit %d, job %d stores %d bytes, %d were changed", unit, job, m.stored, changed)
		}
	}
}

// A partial parcel whose runs are not of whole blocks is no message of ours.
func TestPartialRuns(t *testing.T) {
	for _, r := range []flow.Run{{Offset: 1, Length: 4095}, {Offset: 0, Length: 4095}, {Offset: 4096, Length: 100}} {
		p := &flow.Parcel{Length: cellSize, Partial: true, Runs: []flow.Run{r}}
		var f *flow.Fault
		if err := makeStage(t, chunk.Aligned).parcel(p, make([]byte, cellSize)); !errors.As(err, &f) || f.Class != flow.Corrupt {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
