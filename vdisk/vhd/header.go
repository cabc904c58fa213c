package vhd

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/url"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/millrace-backup/millrace/vdisk"
)

const (
	headerSize    = 1024
	headerCookie  = "cxsparse"
	headerSumAt   = 36
	headerVersion = 0x00010000

	minBlockSize     = 64 << 10
	maxBlockSize     = 256 << 20
	defaultBlockSize = 2 << 20
	maxBlocks        = 4 << 20 // the largest disk in blocks of 512 KiB

	parentNameAt   = 64
	parentNameSize = 512
	locatorsAt     = 576
	locatorSize    = 24
	locators       = 8
	maxPathBytes   = 64 << 10 // the longest path of Windows, in UTF-16
)

// header is the dynamic header.
type header struct {
	tableAt     uint64
	entries     uint32
	blockSize   uint32
	parentID    uuid.UUID
	parentStamp uint32
	parentName  string
	locators    [locators]locator
}

// locator says where in the file a path of the parent is.
type locator struct {
	code   string // of the platform, which settles how the path is written
	length uint32 // in bytes
	offset uint64
}

func readHeader(file vdisk.Image, f footer) (header, error) {
	if f.dataOffset > uint64(file.Size()) || uint64(file.Size())-f.dataOffset < headerSize {
		return header{}, vdisk.Truncated("dynamic header at %d, file ends at %d", f.dataOffset, file.Size())
	}
	b := make([]byte, headerSize)
	if err := vdisk.ReadFull(file, b, int64(f.dataOffset)); err != nil {
		return header{}, err
	}
	be := binary.BigEndian
	if string(b[:8]) != headerCookie {
		return header{}, vdisk.BadFormat("dynamic header begins %q", b[:8])
	}
	if got, want := checksum(b, headerSumAt), be.Uint32(b[headerSumAt:]); got != want {
		return header{}, vdisk.BadFormat("dynamic header has checksum %#x, its bytes give %#x", want, got)
	}
	if v := be.Uint32(b[24:]); v>>16 != 1 {
		return header{}, vdisk.Unsupported("dynamic header of version %d.%d", v>>16, v&0xFFFF)
	}
	h := header{
		tableAt: be.Uint64(b[16:]), entries: be.Uint32(b[28:]), blockSize: be.Uint32(b[32:]),
		parentID: uuid.UUID(b[40:56]), parentStamp: be.Uint32(b[56:]),
		parentName: utf16String(b[parentNameAt:parentNameAt+parentNameSize], be),
	}
	for i := range h.locators {
		l := b[locatorsAt+i*locatorSize:]
		// The space that is reserved for a path is in bytes or in sectors,
		// depending on who wrote it; nobody needs it to read the path.
		h.locators[i] = locator{code: string(l[:4]), length: be.Uint32(l[8:]), offset: be.Uint64(l[16:])}
	}
	switch size := f.diskSize(); {
	case bits.OnesCount32(h.blockSize) != 1:
		return h, vdisk.BadFormat("blocks of %d bytes: not a power of two", h.blockSize)
	case h.blockSize < minBlockSize || h.blockSize > maxBlockSize:
		return h, vdisk.Unsupported("blocks of %d bytes; 64 KiB to 256 MiB can be read", h.blockSize)
	case size/uint64(h.blockSize) > maxBlocks:
		return h, vdisk.Unsupported("disk of %d bytes in blocks of %d: no more than %d blocks can be read", size, h.blockSize, maxBlocks)
	case uint64(h.entries)*uint64(h.blockSize) < size:
		return h, vdisk.BadFormat("BAT of %d blocks of %d bytes for a disk of %d", h.entries, h.blockSize, size)
	}
	return h, nil
}

// bytes is the header of a dynamic image as it is written.
func (h header) bytes() []byte {
	b := make([]byte, headerSize)
	be := binary.BigEndian
	copy(b, headerCookie)
	be.PutUint64(b[8:], noOffset)
	be.PutUint64(b[16:], h.tableAt)
	be.PutUint32(b[24:], headerVersion)
	be.PutUint32(b[28:], h.entries)
	be.PutUint32(b[32:], h.blockSize)
	be.PutUint32(b[headerSumAt:], checksum(b, headerSumAt))
	return b
}

// parent puts together what the header says of the parent: relative paths
// first, then absolute ones, last the bare name in the folder of the child.
func (h header) parent(file vdisk.Image) (vdisk.Parent, error) {
	p := vdisk.Parent{Format: "vhd", Links: []string{h.parentID.String()}, Modified: modified(h.parentStamp)}
	var relative, absolute []vdisk.ParentPath
	for _, l := range h.locators {
		path, err := l.path(file)
		switch {
		case err != nil:
			return p, err
		case path.Path == "":
		case path.Kind == vdisk.RelativePath:
			relative = append(relative, path)
		default:
			absolute = append(absolute, path)
		}
	}
	p.Paths = append(relative, absolute...)
	if h.parentName != "" {
		name := h.parentName[strings.LastIndexAny(h.parentName, `\/`)+1:]
		p.Paths = append(p.Paths, vdisk.ParentPath{Kind: vdisk.RelativePath, Path: name, Windows: true})
	}
	return p, nil
}

// path reads the path of a locator. It is empty where the slot is, and for a
// Macintosh alias, a structure that means something on one machine only.
func (l locator) path(file vdisk.Image) (vdisk.ParentPath, error) {
	var p vdisk.ParentPath
	known := map[string]vdisk.ParentPath{
		"W2ru": {Kind: vdisk.RelativePath, Windows: true},
		"W2ku": {Kind: vdisk.AbsolutePath, Windows: true},
		"Wi2r": {Kind: vdisk.RelativePath, Windows: true}, // these two are deprecated
		"Wi2k": {Kind: vdisk.AbsolutePath, Windows: true},
		"MacX": {Kind: vdisk.AbsolutePath},
	}
	p, ok := known[l.code]
	if !ok || l.length == 0 {
		return p, nil
	}
	switch size := uint64(file.Size()); {
	case l.length > maxPathBytes:
		return p, vdisk.BadFormat("parent locator %q has %d bytes; no path is longer than %d", l.code, l.length, maxPathBytes)
	case l.offset > size || size-l.offset < uint64(l.length):
		return p, vdisk.Truncated("parent locator %q has %d bytes at %d, file ends at %d", l.code, l.length, l.offset, size)
	}
	b := make([]byte, l.length)
	if err := vdisk.ReadFull(file, b, int64(l.offset)); err != nil {
		return p, err
	}
	switch l.code {
	case "W2ru", "W2ku":
		p.Path = utf16String(b, binary.LittleEndian)
	case "MacX": // a file URL
		u, err := url.Parse(string(bytes.TrimRight(b, "\x00")))
		if err == nil && u.Scheme == "file" { // anything else is no way to the parent, of several
			p.Path = u.Path
		}
	default:
		p.Path = string(bytes.TrimRight(b, "\x00"))
	}
	return p, nil
}

// utf16String decodes up to the first NUL. An odd last byte is left out.
func utf16String(b []byte, order binary.ByteOrder) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := order.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
