package qcow2

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/millrace-backup/millrace/vdisk"
)

// CreateOptions are the choices of who makes an image; the zero value is what
// QEMU makes by default.
type CreateOptions struct {
	ClusterSize int64 // a power of two from 4 KiB to 2 MiB; 0: 64 KiB
}

// Create writes the disk from into f as a qcow2 image, without clusters for what
// is zero. See [NewWriter] for what f must be and what a crash leaves.
func Create(ctx context.Context, f vdisk.File, from vdisk.Image, o CreateOptions) error {
	w, err := NewWriter(f, from.Size(), o)
	if err != nil {
		return err
	}
	if err := vdisk.Copy(ctx, w, from); err != nil {
		return fmt.Errorf("create qcow2: %w", err)
	}
	return w.Finish()
}

// Writer is a new image of version 3 that takes its data in any order: a cluster
// gets its place when it is first written to. A part of the L2 tables is in
// memory, at most 16 MiB or eight tables; the others are in the file, and read
// again when needed, which they seldom are when data come roughly in order.
type Writer struct {
	f           vdisk.File
	size        int64
	clusterBits uint
	clusterSize int64
	perTable    int64 // entries of an L2 table

	mu     sync.Mutex // guards all below
	l1     []uint64   // where L2 tables are
	tables map[int64]*l2
	keep   int
	clock  int64 // counts uses of tables
	next   int64 // where the next cluster goes
}

// l2 is an L2 table in memory, as it is written.
type l2 struct {
	b    []byte
	used int64
}

const (
	defaultClusterBits = 16
	refcountOrder      = 4       // refcounts of 16 bits
	copied             = 1 << 63 // nobody else uses the cluster
	keepTables         = 16 << 20
	minTables          = 8
)

// NewWriter begins an image of a disk of zeros. Its size must be a multiple of
// 512 and is kept to the byte.
//
// f must be empty, which is checked; the error is fs.ErrExist when it is not.
// Everything is on the disk when [Writer.Finish] returns nil. Until then the
// file is no valid image but says that it is to be one: whoever opens it meets
// a damaged qcow2, not a raw disk and not one with clusters missing. Its name is
// the caller's to make durable, and the file his to remove when anything fails.
func NewWriter(f vdisk.File, size int64, o CreateOptions) (*Writer, error) {
	w, err := newWriter(f, size, o)
	if err != nil {
		return nil, fmt.Errorf("create qcow2: %w", err)
	}
	return w, nil
}

func newWriter(f vdisk.File, size int64, o CreateOptions) (*Writer, error) {
	cluster := cmp.Or(o.ClusterSize, 1<<defaultClusterBits)
	if bits.OnesCount64(uint64(cluster)) != 1 || cluster < 4096 || cluster > 1<<maxBits {
		return nil, vdisk.Unsupported("clusters of %d bytes", cluster)
	}
	w := &Writer{
		f: f, size: size, clusterSize: cluster, clusterBits: uint(bits.TrailingZeros64(uint64(cluster))), perTable: cluster / 8,
		tables: map[int64]*l2{}, keep: int(max(minTables, keepTables/cluster)),
	}
	if size < 0 || size%512 != 0 {
		return nil, vdisk.Unsupported("disk of %d bytes, which is not a multiple of 512", size)
	}
	covered := w.perTable * cluster
	tables := size/covered + 1
	if size > maxDiskSize || tables*8 > maxL1 {
		return nil, vdisk.Unsupported("disk of %d bytes with clusters of %d", size, cluster)
	}
	if err := vdisk.CheckEmpty(f); err != nil {
		return nil, err
	}
	w.l1 = make([]uint64, tables)
	w.next = cluster + w.clusters(tables*8)*cluster
	_, err := f.WriteAt([]byte(magic), 0) // and no version: see NewWriter
	return w, err
}

// clusters is how many clusters n bytes take.
func (w *Writer) clusters(n int64) int64 { return (n + w.clusterSize - 1) >> w.clusterBits }

// WriteAt writes p to the disk at off. It may be called in parallel for ranges
// that do not overlap.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > w.size || int64(len(p)) > w.size-off {
		return 0, fmt.Errorf("write %d bytes at %d: outside a disk of %d", len(p), off, w.size)
	}
	done := 0
	for done < len(p) {
		at, n, err := w.place(off+int64(done), int64(len(p)-done))
		if err != nil {
			return done, fmt.Errorf("write qcow2 at %d: %w", off+int64(done), err)
		}
		wrote, err := w.f.WriteAt(p[done:done+int(n)], at)
		if done += wrote; err != nil {
			return done, err
		}
	}
	return done, nil
}

// place returns where in the file the disk's bytes at off are, and how many of
// length follow in one piece. Clusters that are new get the next place; the file
// reads as zeros where nothing is written.
func (w *Writer) place(off, length int64) (at, n int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	inside := off & (w.clusterSize - 1)
	for cluster := off >> w.clusterBits; n < length; cluster++ {
		e, err := w.entry(cluster)
		if err != nil {
			return 0, 0, err
		}
		here := int64(binary.BigEndian.Uint64(e) &^ copied)
		follows := n > 0 && at+n == w.next
		if here == 0 && (n == 0 || follows) {
			here = w.next
			w.next += w.clusterSize
			binary.BigEndian.PutUint64(e, uint64(here)|copied)
		}
		switch {
		case n == 0:
			at, n = here+inside, min(length, w.clusterSize-inside)
		case here == at+n:
			n = min(length, n+w.clusterSize)
		default:
			return at, n, nil
		}
	}
	return at, n, nil
}

// entry returns the L2 entry of a cluster, to be read or changed at once.
func (w *Writer) entry(cluster int64) ([]byte, error) {
	number := cluster / w.perTable
	t := w.tables[number]
	if t == nil {
		t = &l2{b: make([]byte, w.clusterSize)}
		if err := w.makeRoom(); err != nil {
			return nil, err
		}
		if at := w.l1[number]; at == 0 {
			w.l1[number] = uint64(w.next)
			w.next += w.clusterSize
		} else if _, err := w.f.ReadAt(t.b, int64(at)); err != nil {
			return nil, fmt.Errorf("read L2 table %d again: %w", number, err)
		}
		w.tables[number] = t
	}
	w.clock++
	t.used = w.clock
	return t.b[cluster%w.perTable*8:][:8], nil
}

// makeRoom writes the table that was used longest ago, when there are too many.
func (w *Writer) makeRoom() error {
	if len(w.tables) < w.keep {
		return nil
	}
	oldest := int64(-1)
	for number, t := range w.tables {
		if oldest < 0 || t.used < w.tables[oldest].used {
			oldest = number
		}
	}
	if _, err := w.f.WriteAt(w.tables[oldest].b, int64(w.l1[oldest])); err != nil {
		return err
	}
	delete(w.tables, oldest)
	return nil
}

// Finish makes the file a valid, durable image. No WriteAt may be under way.
func (w *Writer) Finish() error {
	if err := w.finish(); err != nil {
		return fmt.Errorf("create qcow2: %w", err)
	}
	return nil
}

func (w *Writer) finish() error {
	for number := range int64(len(w.l1)) { // in order, and not the map's
		if t := w.tables[number]; t != nil {
			if _, err := w.f.WriteAt(t.b, int64(w.l1[number])); err != nil {
				return err
			}
		}
	}
	l1 := make([]byte, len(w.l1)*8)
	for i, at := range w.l1 {
		if at != 0 {
			binary.BigEndian.PutUint64(l1[i*8:], at|copied)
		}
	}
	if _, err := w.f.WriteAt(l1, w.clusterSize); err != nil {
		return err
	}
	tableAt, tableClusters, err := w.refcounts()
	if err != nil {
		return err
	}
	// Durable before valid: a crash before this line leaves no header, and one
	// after it finds everything that the header refers to. Were it left out, the
	// header could reach the disk before the tables, and zeros be read as data.
	if err := w.f.Sync(); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(w.header(tableAt, tableClusters), 0); err != nil {
		return err
	}
	// A crash before this line leaves a header that is whole, or none: it is
	// shorter than the smallest piece that a disk writes.
	return w.f.Sync()
}

// refcounts writes the refcounts behind everything else. Each cluster up to the
// end of the file is used once, those of the refcounts included: how many they
// are depends on how many they are, and settles after a few rounds.
func (w *Writer) refcounts() (tableAt, tableClusters int64, err error) {
	perBlock, used := w.clusterSize/2, w.next>>w.clusterBits
	total, blocks := used, int64(0)
	for {
		blocks = (total + perBlock - 1) / perBlock
		tableClusters = w.clusters(blocks * 8)
		if now := used + blocks + tableClusters; now != total {
			total = now
			continue
		}
		break
	}
	table := make([]byte, tableClusters*w.clusterSize)
	b := make([]byte, w.clusterSize)
	for i := range blocks {
		clear(b)
		for n := range min(perBlock, total-i*perBlock) {
			b[2*n+1] = 1
		}
		at := w.next + i*w.clusterSize
		if _, err := w.f.WriteAt(b, at); err != nil {
			return 0, 0, err
		}
		binary.BigEndian.PutUint64(table[i*8:], uint64(at))
	}
	tableAt = w.next + blocks*w.clusterSize
	_, err = w.f.WriteAt(table, tableAt)
	return tableAt, tableClusters, err
}

func (w *Writer) header(tableAt, tableClusters int64) []byte {
	b := make([]byte, sizeV3+8) // the end of the extensions is eight zeros
	be := binary.BigEndian
	copy(b, magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], uint32(w.clusterBits))
	be.PutUint64(b[24:], uint64(w.size))
	be.PutUint32(b[36:], uint32(len(w.l1)))
	be.PutUint64(b[40:], uint64(w.clusterSize)) // of the L1 table
	be.PutUint64(b[48:], uint64(tableAt))
	be.PutUint32(b[56:], uint32(tableClusters))
	be.PutUint32(b[96:], refcountOrder)
	be.PutUint32(b[100:], sizeV3)
	return b
}
