package qcow2_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// draft says what a hand-built image is like. It is put together from the
// format's own description, by nothing of the package.
type draft struct {
	version    uint32 // 0: 3
	bits       uint32 // of a cluster; 0: 16
	size       int64
	l1         uint32 // entries; 0: as many as needed, of tables for 8-byte entries
	features   uint64
	backing    string
	extensions []byte
	header     func(b []byte) // changes the first cluster before it is written
}

// built is a file in memory: the header, the L1 table in cluster 1, one L2
// table in cluster 2, and what is put from cluster 3 on.
type built struct {
	*vdisktest.Sparse
	draft
	cluster int64
	next    int64
}

func build(t testing.TB, d draft) *built {
	t.Helper()
	if d.version == 0 {
		d.version = 3
	}
	if d.bits == 0 {
		d.bits = 16
	}
	b := &built{Sparse: vdisktest.NewSparse(0), draft: d, cluster: 1 << (d.bits & 31)}
	if d.l1 == 0 {
		b.l1 = uint32((d.size + b.cluster*b.cluster/8 - 1) / (b.cluster * b.cluster / 8))
	}
	h := make([]byte, max(b.cluster, 512))
	be := binary.BigEndian
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], d.version)
	be.PutUint32(h[20:], d.bits)
	be.PutUint64(h[24:], uint64(d.size))
	be.PutUint32(h[36:], b.l1)
	be.PutUint64(h[40:], uint64(b.cluster))
	end := 72
	if d.version == 3 {
		be.PutUint64(h[72:], d.features)
		be.PutUint32(h[96:], 4)
		be.PutUint32(h[100:], 104)
		end = 104
	}
	copy(h[end:], d.extensions)
	if d.backing != "" {
		at := len(h) - len(d.backing)
		be.PutUint64(h[8:], uint64(at))
		be.PutUint32(h[16:], uint32(len(d.backing)))
		copy(h[at:], d.backing)
	}
	if d.header != nil {
		d.header(h)
	}
	b.write(h, 0)
	b.put64(uint64(2*b.cluster)|1<<63, b.cluster)
	b.write(make([]byte, b.cluster), 2*b.cluster)
	b.next = 3 * b.cluster
	return b
}

// write grows the file as needed.
func (b *built) write(p []byte, off int64) {
	b.Truncate(max(b.Size(), off+int64(len(p))))
	if _, err := b.WriteAt(p, off); err != nil {
		panic(err)
	}
}

func (b *built) put64(v uint64, off int64) {
	b.write(binary.BigEndian.AppendUint64(nil, v), off)
}

// entry sets an entry of the L2 table.
func (b *built) entry(cluster int64, e uint64) *built {
	b.put64(e, 2*b.cluster+cluster*8)
	return b
}

// store puts a cluster at the end of the file, and returns where.
func (b *built) store(p []byte) uint64 {
	at := b.next
	b.write(p, at)
	b.next += b.cluster
	return uint64(at)
}

// extension is one header extension.
func extension(kind uint32, content string) []byte {
	b := binary.BigEndian.AppendUint32(nil, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = append(b, content...)
	return append(b, make([]byte, (8-len(content)%8)%8)...)
}

func deflate(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 9)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func fillOf(c byte, n int64) []byte { return bytes.Repeat([]byte{c}, int(n)) }

var _ vdisk.Image = (*built)(nil)
