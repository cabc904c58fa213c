package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Fleece makes the fleecing file of a disk, and says which driver QEMU is to open it
// with. A disk may be larger than a file can be (ext4: 16 TiB); its fleecing file is then
// one that grows with what is in it.
func Fleece(folder string, size int64) (f *os.File, driver string, err error) {
	f, err = Unnamed(folder, size)
	if !errors.Is(err, syscall.EFBIG) {
		return f, "raw", err
	}
	head := emptyQcow2(size)
	if f, err = Unnamed(folder, int64(len(head))); err != nil {
		return nil, "", err
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		return nil, "", errors.Join(fmt.Errorf("write the head of a fleecing file: %w", err), f.Close())
	}
	return f, "qcow2", nil
}

// emptyQcow2 is a qcow2 image, version 3, of a size, with nothing in it: a cluster for its
// header, one for the table of refcount blocks, one for the first of these, and the L1
// table.
func emptyQcow2(size int64) []byte {
	const (
		bits    = 16
		cluster = 1 << bits
		perL2   = cluster / 8 * cluster // bytes of the disk
	)
	entries := (size + perL2 - 1) / perL2
	clusters := 3 + (entries*8+cluster-1)/cluster
	b := make([]byte, clusters*cluster)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[20:], bits)
	binary.BigEndian.PutUint64(b[24:], uint64(size))
	binary.BigEndian.PutUint32(b[36:], uint32(entries))
	binary.BigEndian.PutUint64(b[40:], 3*cluster) // where the L1 table is
	binary.BigEndian.PutUint64(b[48:], cluster)   // where the refcount table is
	binary.BigEndian.PutUint32(b[56:], 1)         // clusters of it
	binary.BigEndian.PutUint32(b[96:], 4)         // a refcount has 16 bits
	binary.BigEndian.PutUint32(b[100:], 104)      // bytes of the header
	binary.BigEndian.PutUint64(b[cluster:], 2*cluster)
	for n := range clusters {
		binary.BigEndian.PutUint16(b[2*cluster+2*n:], 1)
	}
	return b
}
