package qcow2_test

import (
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// FuzzOpen changes the structures of a small image with clusters of 512 bytes to
// 64 KiB and does with it all a reader does.
func FuzzOpen(f *testing.F) {
	add := func(x *built) {
		part := func(at, n int64) []byte {
			b := make([]byte, n)
			_, _ = x.ReadAt(b, at) // what is behind the end stays zero
			return b
		}
		f.Add(part(0, 512), part(x.cluster, 64), part(2*x.cluster, 256), part(3*x.cluster, 1024), x.Size())
	}
	for _, bits := range []uint32{9, 12, 16} {
		x := build(f, draft{size: 1 << (bits + 3), bits: bits, backing: "base", extensions: extension(0xE2792ACA, "raw")})
		x.entry(1, x.store(fillOf(2, x.cluster))|1<<63)
		x.entry(2, 1)
		x.write(deflate(f, fillOf(3, x.cluster)), x.next)
		x.entry(3, 1<<62|uint64(x.next))
		x.Truncate(x.next + 512)
		add(x)
	}
	v2 := build(f, draft{version: 2, size: mib})
	v2.entry(0, v2.store(fillOf(2, v2.cluster)))
	add(v2)
	sub := build(f, draft{size: mib, l1: 1, features: 16})
	at := sub.store(fillOf(9, sub.cluster))
	sub.put64(at, 2*sub.cluster)
	sub.put64(0x4000_000E_8000_00F1, 2*sub.cluster+8)
	add(sub)
	zstd := build(f, draft{size: mib, features: 8, header: func(h []byte) { h[103], h[104] = 112, 1 }})
	zstd.write([]byte("\x28\xb5\x2f\xfd\x60\x00\xff\x4d\x00\x00\x10\x00\x00\x01\x00\xfb\xff\x39\xc0\x02"), zstd.next)
	zstd.entry(0, 1<<62|uint64(zstd.next))
	add(zstd)
	snap := build(f, draft{size: mib, header: func(h []byte) { h[63], h[69] = 1, 3 }})
	snap.store(append(make([]byte, 12), 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '1', 'a'))
	add(snap)

	f.Fuzz(func(t *testing.T, head, l1, l2, rest []byte, size int64) {
		file := vdisktest.NewSparse(max(512, min(size, 1<<40)))
		cluster := int64(1) << 16
		if len(head) > 23 {
			cluster = 1 << (9 + head[23]%13)
		}
		for i, b := range [][]byte{head, l1, l2, rest} {
			_, _ = file.WriteAt(b, int64(i)*cluster) // outside a short file nothing is written
		}
		_, _ = file.WriteAt([]byte("QFI\xfb\x00\x00\x00"), 0)
		if m, err := qcow2.Open(file, anyParent); err == nil {
			vdisktest.Touch(t, m)
		}
		all, err := qcow2.Snapshots(file)
		for i, s := range all[:min(len(all), 3)] {
			if m, openErr := qcow2.OpenSnapshot(file, anyParent, s.ID); err == nil && openErr == nil && i < 3 {
				vdisktest.Touch(t, m)
			}
		}
	})
}

// anyParent finds the same parent for every child.
func anyParent(vdisk.Parent) (vdisk.Image, error) {
	return vdisktest.FromBytes([]byte("a parent of 24 bytes....")), nil
}

// FuzzBytes opens anything at all.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("QFI\xfb"))
	f.Add(append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 300)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := qcow2.Open(vdisktest.FromBytes(b), anyParent); err == nil {
			vdisktest.Touch(t, m)
		}
	})
}
