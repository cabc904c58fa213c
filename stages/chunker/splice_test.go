package chunker

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// model is a disk as its map has it: what the pieces of job after job say.
type model struct {
	t        *testing.T
	restored []byte
	disk     []byte
	work     flow.Work
	folder   string
	stored   int64 // by the last job
	pieces   int
}

// job cuts the whole disk with a new stage, takes its pieces into the map and makes
// the sidecar that of the new point.
func (m *model) job(name string, point byte, cells int64) {
	m.t.Helper()
	s := makeStage(m.t, name)
	m.work.Cutter, m.work.CellSize, m.work.Sidecars = s.work.Cutter, cellSize, m.folder
	s = newStage(&m.work, s.Tools)
	defer s.known.close()
	k := sidecar.NewKeeper(&m.work, filepath.Join(m.t.TempDir(), "job"))
	m.stored, m.pieces = 0, 0
	size := cells * cellSize
	for at := int64(0); at < int64(len(m.disk)); at += size {
		p := &flow.Parcel{Number: uint32(at / size), Offset: at, Length: min(size, int64(len(m.disk))-at)}
		b := m.disk[at : at+p.Length]
		if err := s.parcel(p, b); err != nil {
			m.t.Fatal(err)
		}
		wire, err := (&flow.Message{Parcel: p}).Encode()
		if err != nil {
			m.t.Fatal(err)
		}
		back, err := flow.DecodeMessage(wire)
		if err != nil {
			m.t.Fatal(err)
		}
		k.Keep(back.Parcel)
		m.take(s, p, b)
	}
	if !bytes.Equal(m.restored, m.disk) {
		m.t.Fatalf("%s: job %d: the map gives another disk", name, point)
	}
	c := events.PointCommitted{Point: id.Point{point}, Disks: []events.PointDisk{{Root: events.Hash{point}}}}
	k.Commit(&c, func(uint32, int64) sidecar.Left { return sidecar.LeftLost })
	m.work.Guests[0].Parent, m.work.Disks[0].Parent = c.Point, &c.Disks[0]
}

// take checks a parcel's pieces and writes what they bring into the restored disk.
func (m *model) take(s *stage, p *flow.Parcel, b []byte) {
	m.t.Helper()
	joined := map[id.Chunk][]byte{}
	at := uint32(0)
	for _, x := range p.Pieces {
		part := b[x.Offset : x.Offset+x.Length]
		old := m.restored[p.Offset+int64(x.Offset):][:x.Length]
		m.pieces++
		switch {
		case x.Offset != at:
			m.t.Fatalf("a piece at %d after %d", x.Offset, at)
		case x.Zero && len(bytes.Trim(part, "\x00")) != 0:
			m.t.Fatalf("%+v is not zero", x)
		case x.Verdict == flow.Unchanged && !bytes.Equal(old, part):
			m.t.Fatalf("%+v has changed", x)
		case !x.Zero && x.Verdict == flow.Undecided:
			m.stored += int64(x.Length)
			if int(x.From) != len(joined[x.Chunk])%int(x.Size()) {
				m.t.Fatalf("%+v does not follow the part before it", x)
			}
			if x.Size() > uint32(s.work.Cutter.Max) {
				m.t.Fatalf("%+v is too large", x)
			}
			joined[x.Chunk] = append(joined[x.Chunk], part...)
			if len(joined[x.Chunk]) == int(x.Size()) && s.IDs.ID(joined[x.Chunk]) != x.Chunk {
				m.t.Fatalf("%+v is not the id of its parts", x)
			}
		}
		copy(old, part)
		at += x.Length
	}
}

// However a disk changes, what is called unchanged is, and the parts of every chunk
// are that chunk.
func TestSplices(t *testing.T) {
	for _, name := range []string{chunk.Aligned, chunk.Fixed, chunk.FastCDC} {
		size := int64(5*cellSize + 4096*3 + 777)
		m := &model{t: t, restored: make([]byte, size), disk: make([]byte, size), folder: t.TempDir()}
		m.work = flow.Work{Guests: make([]flow.WorkGuest, 1), Disks: []flow.WorkDisk{{Info: events.DiskInfo{VirtualSize: size}}}}
		rnd := rand.New(rand.NewPCG(3, 3))
		noise := rand.NewChaCha8([32]byte{3})
		_, _ = noise.Read(m.disk[:3*cellSize])
		m.job(name, 1, 1)
		for job := byte(2); job < 40; job++ {
			changed := int64(0)
			switch job % 5 {
			case 0: // nothing
			case 1: // a file
				at := rnd.IntN(int(size) - 300<<10)
				_, _ = noise.Read(m.disk[at : at+300<<10])
				changed = 300<<10 + 16<<10
			case 2: // zeros, or data that was there before
				at := rnd.IntN(int(size) - 50<<10)
				clear(m.disk[at : at+50<<10])
				changed = 8192
			default: // blocks here and there
				for range 30 {
					at := rnd.IntN(int(size)/4096) * 4096
					_, _ = noise.Read(m.disk[at : at+4096])
					changed += 4096
				}
			}
			m.job(name, job, []int64{1, 2, 4}[job%3])
			// Cells that had no data, or have changed too often, are cut whole.
			if m.stored > changed+4*cellSize {
				t.Errorf("%s: job %d stores %d bytes, %d were changed", name, job, m.stored, changed)
			}
			if job%5 == 0 && m.stored != 0 {
				t.Errorf("%s: job %d: nothing was changed, %d bytes are stored", name, job, m.stored)
			}
		}
	}
}

// Scattered changes are stored block by block until half of a cell has changed;
// then it is cut afresh, and not all cells in one job.
func TestCellsAreCutAfreshInTurn(t *testing.T) {
	const cells = 24
	m := &model{t: t, restored: make([]byte, cells*cellSize), disk: make([]byte, cells*cellSize), folder: t.TempDir()}
	m.work = flow.Work{Guests: make([]flow.WorkGuest, 1), Disks: []flow.WorkDisk{{Info: events.DiskInfo{VirtualSize: cells * cellSize}}}}
	rnd := rand.New(rand.NewPCG(4, 4))
	noise := rand.NewChaCha8([32]byte{4})
	_, _ = noise.Read(m.disk)
	m.job(chunk.Aligned, 1, 1)
	blocks := len(m.disk) / 4096
	most, afresh := 0, 0
	for job := byte(2); job < 90; job++ {
		for _, n := range rnd.Perm(blocks)[:blocks/100] {
			_, _ = noise.Read(m.disk[n*4096 : (n+1)*4096])
		}
		m.job(chunk.Aligned, job, 1)
		whole := int((m.stored - int64(blocks/100)*4096 + cellSize/2) / cellSize)
		if job <= 31 && whole != 0 {
			t.Errorf("job %d: %d cells are cut afresh", job, whole)
		}
		most, afresh = max(most, whole), afresh+whole
	}
	t.Logf("%d cells are cut afresh, at most %d of %d in one job", afresh, most, cells)
	if afresh < cells/2 || most > cells/2 {
		t.Errorf("%d cells are cut afresh, %d of %d in one job", afresh, most, cells)
	}
}
