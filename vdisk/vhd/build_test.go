package vhd_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// draft says what a hand-built image is like. It is put together from the
// tables of the specification alone, by nothing of the package.
type draft struct {
	size       int64
	block      int64  // 0: 2 MiB
	kind       uint32 // 0: dynamic
	creator    string // "": "win "
	chs        [4]byte
	id         byte // the footer's UUID is this byte, 16 times
	parent     byte // the parent's
	parentName string
	stamp      uint32
	locators   []locatorDraft
	footer     func(b []byte) // changes the footers before they are summed
	header     func(b []byte) // changes the dynamic header before it is summed
	short      bool           // the footer at the end has 511 bytes
	tail       bool           // there is no copy of the footer at 0
}

type locatorDraft struct {
	code  string
	space uint32
	path  []byte
}

// built is a file in memory, and the disk that it must show.
type built struct {
	*vdisktest.Sparse
	draft
	want   *vdisktest.Sparse
	next   int64
	bitmap int64 // bytes of one
}

const (
	draftHeaderAt = 512
	draftTableAt  = 512 + 1024
)

func sum(b []byte, at int) {
	clear(b[at : at+4])
	var s uint32
	for _, c := range b {
		s += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^s)
}

func (d draft) footerBytes() []byte {
	b := make([]byte, 512)
	be := binary.BigEndian
	copy(b, "conectix")
	be.PutUint32(b[8:], 2)
	be.PutUint32(b[12:], 0x10000)
	be.PutUint64(b[16:], draftHeaderAt)
	if d.kind == 2 {
		be.PutUint64(b[16:], 0xFFFFFFFFFFFFFFFF)
	}
	copy(b[28:], d.creator)
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], uint64(d.size))
	be.PutUint64(b[48:], uint64(d.size))
	copy(b[56:], d.chs[:])
	be.PutUint32(b[60:], d.kind)
	for i := range 16 {
		b[68+i] = d.id
	}
	if d.footer != nil {
		d.footer(b)
	}
	sum(b, 64)
	return b
}

func build(t testing.TB, d draft) *built {
	t.Helper()
	if d.block == 0 {
		d.block = 2 << 20
	}
	if d.kind == 0 {
		d.kind = 3
	}
	if d.creator == "" {
		d.creator = "win "
	}
	b := &built{Sparse: vdisktest.NewSparse(0), draft: d, want: vdisktest.NewSparse(d.size)}
	if d.kind == 2 {
		b.next = d.size
		return b
	}
	blocks := (d.size + d.block - 1) / d.block
	b.bitmap = max(512, d.block/512/8)
	table := make([]byte, (blocks*4+511)/512*512)
	for i := range table {
		table[i] = 0xFF
	}
	b.write(table, draftTableAt)
	h := make([]byte, 1024)
	be := binary.BigEndian
	copy(h, "cxsparse")
	be.PutUint64(h[8:], 0xFFFFFFFFFFFFFFFF)
	be.PutUint64(h[16:], draftTableAt)
	be.PutUint32(h[24:], 0x10000)
	be.PutUint32(h[28:], uint32(blocks))
	be.PutUint32(h[32:], uint32(d.block))
	be.PutUint32(h[56:], d.stamp)
	if d.kind == 4 {
		for i := range 16 {
			h[40+i] = d.parent
		}
	}
	for i, c := range utf16.Encode([]rune(d.parentName)) {
		be.PutUint16(h[64+2*i:], c)
	}
	b.next = draftTableAt + int64(len(table))
	for i, l := range d.locators {
		e := h[576+24*i:]
		copy(e, l.code)
		be.PutUint32(e[4:], l.space)
		be.PutUint32(e[8:], uint32(len(l.path)))
		be.PutUint64(e[16:], uint64(b.next))
		b.write(l.path, b.next)
		b.next += (int64(len(l.path)) + 511) / 512 * 512
	}
	if d.header != nil {
		d.header(h)
	}
	sum(h, 36)
	b.write(h, draftHeaderAt)
	if !d.tail {
		b.write(d.footerBytes(), 0)
	}
	return b
}

// write grows the file as needed.
func (b *built) write(p []byte, off int64) {
	b.Truncate(max(b.Size(), off+int64(len(p))))
	if _, err := b.WriteAt(p, off); err != nil {
		panic(err)
	}
}

// put gives a block its place, with all of data, and bits set for the sectors
// that here chooses. The disk wanted gets those sectors.
func (b *built) put(block int64, data []byte, here func(sector int64) bool) {
	m := make([]byte, b.bitmap)
	for s := range b.block / 512 {
		if !here(s) {
			continue
		}
		m[s/8] |= 0x80 >> (s % 8)
		off := block*b.block + s*512
		if off < b.size && s*512 < int64(len(data)) {
			sector := data[s*512 : min(int64(len(data)), (s+1)*512)]
			_, _ = b.want.WriteAt(sector[:min(int64(len(sector)), b.size-off)], off) // inside the disk
		}
	}
	b.write(m, b.next)
	b.write(data, b.next+b.bitmap)
	b.entry(block, uint32(b.next/512))
	b.next += b.bitmap + b.block
}

func (b *built) entry(block int64, sector uint32) {
	var e [4]byte
	binary.BigEndian.PutUint32(e[:], sector)
	b.write(e[:], draftTableAt+block*4)
}

// finish puts the footer at the end.
func (b *built) finish() *built {
	f := b.footerBytes()
	if b.short {
		f = f[:511]
	}
	b.Truncate(b.next) // of the last block, too, everything is there
	b.write(f, b.next)
	return b
}

func always(int64) bool { return true }

// patchy sets bits in runs of several lengths, none of which is a whole byte.
func patchy(s int64) bool { return s%37 < 11 || s%512 >= 300 && s%512 < 420 }

func random(seed uint64, n int64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func utf16le(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}
