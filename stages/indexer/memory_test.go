package indexer

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"runtime"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// full is the size of the disk in TestMemoryOfAFullDisk; the figures of 1 TiB in
// docs/performance.md are from -full-gib=1024.
var full = flag.Int("full-gib", 4, "size of the disk, every block of it data")

const (
	bigCell   = 4 << 20
	bigChunk  = 64 << 10
	heapLimit = 40 << 20
)

// synthetic is a parcel of chunks that nobody has, one in eight of them a repeat.
func synthetic(n uint32, pack flow.Pack) *flow.Parcel {
	p := &flow.Parcel{Number: n, Offset: int64(n) * bigCell, Length: bigCell, Sum: make([]byte, 16), Packs: []flow.Pack{pack}}
	for i := range uint32(bigCell / bigChunk) {
		k := uint64(n)*(bigCell/bigChunk) + uint64(i)
		if i%8 == 7 {
			k /= 16
		}
		c := id.Chunk(sha256.Sum256(binary.LittleEndian.AppendUint64(nil, k)))
		p.Pieces = append(p.Pieces, flow.Piece{Offset: i * bigChunk, Length: bigChunk, Chunk: c, Verdict: flow.New, At: 100 + 40000*i, Stored: 40000})
	}
	return p
}

// heap is what is in use after a collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryOfAFullDisk feeds the state with a disk that is all data and commits
// it: the heap does not grow with the disk, and the tables are what was fed.
func TestMemoryOfAFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("a disk of many parcels")
	}
	b := newLab(t)
	j := b.begin(1, labCell, nil, nil)
	work := j.x.work
	work.ParcelSize, work.CellSize = bigCell, bigCell
	work.Disks[0].Info.VirtualSize = int64(*full) << 30
	var err error
	must(t, j.x.spool.Close())
	j.x.state, err = newState(work, memIndex{}, j.x.recent, j.x.w.Config.Folder, 0)
	must(t, err)
	before, most := heap(), int64(0)
	parcels := work.Parcels(0)
	began := time.Now()
	var pack flow.Pack
	for i := range parcels {
		if i%16 == 0 {
			pack = flow.Pack{Name: id.Object{byte(i), byte(i >> 8), byte(i >> 16), 1}, Size: 40 << 20}
		}
		p := synthetic(i^1, pack) // not in the order of the disk
		how, err := j.x.accept(p)
		must(t, err)
		must(t, j.x.take(j.x.w.Config.Job, p, how))
		if i%(parcels/8) == 0 {
			most = max(most, heap()-before)
		}
	}
	t.Logf("%d parcels in %v; heap %d KiB more", parcels, time.Since(began), most>>10)
	stop, peak := make(chan bool), make(chan int64)
	go func() {
		most := int64(0)
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(200 * time.Millisecond):
				most = max(most, heap()-before)
			}
		}
	}()
	began = time.Now()
	written, err := j.x.writeTables(t.Context(), 0)
	stop <- true
	most = max(most, <-peak)
	must(t, err)
	t.Logf("tables of %d chunks in %v; heap at most %d KiB more", written.New, time.Since(began), most>>10)
	if most > heapLimit {
		t.Errorf("%d KiB of heap, at most %d are wanted", most>>10, heapLimit>>10)
	}
	checkFull(t, b, work, written, parcels)
}

// checkFull reads the tables back: in the order of the disk, chunk by chunk.
func checkFull(t *testing.T, b *lab, work *flow.Work, written tables, parcels uint32) {
	t.Helper()
	m, err := table.OpenMap(t.Context(), b.v, events.PointDisk{
		Size: work.Disks[0].Info.VirtualSize, Extents: []events.TableRef{written.Disks[0].Table}, Chunks: []events.TableRef{written.Chunks},
	})
	must(t, err)
	at, parcel := int64(0), (*flow.Parcel)(nil)
	for p, err := range m.Range(t.Context(), 0, m.Size()) {
		must(t, err)
		n := uint32(at / bigCell)
		if at%bigCell == 0 {
			parcel = synthetic(n, flow.Pack{})
		}
		if want := parcel.Pieces[at%bigCell/bigChunk]; p.Offset != at || p.Length != bigChunk || p.Chunk != want.Chunk || p.Stored != 40000 {
			t.Fatalf("at %d there is %+v", at, p)
		}
		at += p.Length
	}
	if at != int64(parcels)*bigCell {
		t.Errorf("the map ends at %d", at)
	}
}
