package vhd_test

import (
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
)

// FuzzOpen changes the structures of a small image, then repairs the checksums
// so that what is behind them is reached, and does with it all a reader does.
func FuzzOpen(f *testing.F) {
	add := func(x *built) {
		part := func(at, n int64) []byte {
			b := make([]byte, n)
			_, _ = x.ReadAt(b, at) // what is behind the end stays zero
			return b
		}
		f.Add(part(x.Size()-512, 128), part(draftHeaderAt, 800), part(draftTableAt, 512), part(2048, 512), x.Size())
	}
	add(fill(build(f, draft{size: 5 * mib})))
	add(fill(build(f, draft{size: 5 * mib, block: 64 * kib})))
	add(fill(build(f, draft{size: 5 * mib, creator: "vpc ", chs: [4]byte{0, 150, 4, 17}})))
	add(build(f, draft{size: mib, kind: 2}).finish())
	add(fill(build(f, draft{size: 5 * mib, kind: 4, parentName: "base.vhd", locators: []locatorDraft{{"W2ru", 512, utf16le(`.\base.vhd`)}, {"MacX", 1, []byte("file:///base")}}})))

	f.Fuzz(func(t *testing.T, foot, head, table, rest []byte, size int64) {
		file := vdisktest.NewSparse(max(512, min(size, 1<<42)))
		put := func(b []byte, at, n int64) []byte {
			b = append(b, make([]byte, max(0, n-int64(len(b))))...)[:n]
			_, _ = file.WriteAt(b, at) // outside a short file nothing is written
			return b
		}
		put(table, draftTableAt, 512)
		put(rest, 2048, 1024)
		h := put(head, draftHeaderAt, 1024)
		sum(h, 36)
		put(h, draftHeaderAt, 1024)
		b := put(foot, 0, 512)
		copy(b, "conectix")
		sum(b, 64)
		put(b, 0, 512)
		put(b, file.Size()-512, 512)
		if m, err := vhd.Open(file, anyParent); err == nil {
			vdisktest.Touch(t, m)
		}
	})
}

// anyParent finds the same parent for every child.
func anyParent(vdisk.Parent) (vdisk.Image, error) {
	return vdisktest.FromBytes([]byte("a parent of 24 bytes....")), nil
}

// FuzzBytes opens anything at all.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("conectix"))
	f.Add(make([]byte, 1023))
	x := build(f, draft{size: 600, kind: 2}).finish()
	b := make([]byte, x.Size())
	_, _ = x.ReadAt(b, 0) // all of it
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := vhd.Open(vdisktest.FromBytes(b), anyParent); err == nil {
			vdisktest.Touch(t, m)
		}
	})
}
