package qcow2

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace-backup/millrace/vdisk"
)

// inflater decompresses clusters and keeps some of them, because a reader asks
// for less than a cluster at a time. A cluster has its slot by its number; who
// needs a slot that another fills waits.
type inflater struct {
	file        vdisk.Image
	clusterBits uint
	compression uint8
	slots       []slot
}

// slot has what decompressing takes, made when it is first needed.
type slot struct {
	mu      sync.Mutex // guards all below
	entry   uint64     // of the cluster that out has; 0: none
	cluster int64
	in, out []byte
	source  bytes.Reader
	zlib    io.ReadCloser
	zstd    *zstd.Decoder
}

const (
	keepInflated  = 16 << 20 // bytes
	minSlots      = 8
	maxSlots      = 64
	minChildSlots = 2
	maxWindow     = 8 << 20 // what a zstd frame may ask for
)

func newInflater(file vdisk.Image, h header) *inflater {
	n := max(minSlots, min(maxSlots, keepInflated>>h.clusterBits))
	if h.backing != "" { // a chain may have many
		n = minChildSlots
	}
	return &inflater{file: file, clusterBits: h.clusterBits, compression: h.compression, slots: make([]slot, n)}
}

// read fills p with bytes of the disk at off, which are in one cluster.
func (f *inflater) read(p []byte, off int64, entry uint64) error {
	cluster := off >> f.clusterBits
	s := &f.slots[cluster%int64(len(f.slots))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entry != entry || s.cluster != cluster {
		s.entry = 0
		if err := f.fill(s, entry); err != nil {
			return fmt.Errorf("compressed cluster %d: %w", cluster, err)
		}
		s.entry, s.cluster = entry, cluster
	}
	copy(p, s.out[off&(1<<f.clusterBits-1):])
	return nil
}

// fill decompresses a cluster. Its entry has an offset in bytes, of which there
// are fewer the larger clusters are, and how many sectors follow the first. What
// is behind the compressed bytes in the last sector is another cluster's.
func (f *inflater) fill(s *slot, entry uint64) error {
	x := 62 - (f.clusterBits - 8)
	at := entry & (1<<x - 1)
	length := (entry>>x+1)*512 - at%512
	size := uint64(f.file.Size())
	if at >= size {
		return vdisk.Truncated("it is at %d, file ends at %d", at, size)
	}
	cut := length > size-at // the last sector need not be a whole one
	length = min(length, size-at)
	if s.out == nil {
		s.out, s.in = make([]byte, 1<<f.clusterBits), make([]byte, 2<<f.clusterBits)
	}
	if length > uint64(len(s.in)) {
		return vdisk.BadFormat("it has %d bytes", length)
	}
	if err := vdisk.ReadFull(f.file, s.in[:length], int64(at)); err != nil {
		return err
	}
	s.source.Reset(s.in[:length])
	r, err := f.reader(s)
	if err == nil {
		_, err = io.ReadFull(r, s.out)
	}
	switch {
	case err != nil && cut:
		return vdisk.Truncated("%d bytes at %d do not decompress, file ends there: %v", length, at, err)
	case err != nil:
		return vdisk.BadFormat("%d bytes at %d do not decompress: %v", length, at, err)
	}
	return nil
}

func (f *inflater) reader(s *slot) (io.Reader, error) {
	if f.compression == compressZstd {
		if s.zstd != nil {
			return s.zstd, s.zstd.Reset(&s.source)
		}
		var err error
		s.zstd, err = zstd.NewReader(&s.source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		return s.zstd, err
	}
	if s.zlib == nil {
		s.zlib = flate.NewReader(&s.source) // deflate as it is: there is no zlib header
		return s.zlib, nil
	}
	return s.zlib, s.zlib.(flate.Resetter).Reset(&s.source, nil) // every flate reader is one
}
