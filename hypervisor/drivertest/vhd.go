package drivertest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// Patch is what one layer of a disk has of its own: bytes at an offset.
type Patch struct {
	Offset int64
	Data   []byte
}

// Patched is a disk with patches laid over it: what a guest sees of the layer that has
// them, worked out without any image.
func Patched(disk []byte, patches []Patch) []byte {
	out := append([]byte(nil), disk...)
	for _, p := range patches {
		copy(out[p.Offset:], p.Data)
	}
	return out
}

// VHDXLayer writes a differencing VHDX: on is the image that it is laid on, which has all parents in its
// folder. Patches are of whole pieces of 4096 bytes.
func VHDXLayer(path, on string, patches []Patch) error {
	parent, err := open.Path(on, open.Options{Parents: []string{filepath.Dir(on)}})
	if err != nil {
		return err
	}
	defer parent.Close()
	l := layer{flat: flat{Patched(make([]byte, parent.Size()), patches)}}
	for _, p := range patches {
		l.own = append(l.own, vdisk.Extent{Offset: p.Offset, Length: int64(len(p.Data)), Kind: vdisk.Data})
	}
	link := create.Parent{Info: parent.Info(), Relative: `.\` + filepath.Base(on)}
	return newFile(path, func(f *os.File) error {
		return create.Child(context.Background(), f, l, link, create.Options{BlockSize: 1 << 20})
	})
}

// VHDLayer writes a VHD by hand, from the tables of its specification and with no code
// of the package that reads it: a dynamic image, or a differencing one on the image at
// on, in the same folder, if that is not "". Patches are of whole sectors of 512 bytes.
func VHDLayer(path, on string, size int64, patches []Patch) error {
	const block, headerAt, tableAt = 2 << 20, 512, 1536
	be := binary.BigEndian
	blocks := (size + block - 1) / block
	table := make([]byte, (4*blocks+511)/512*512)
	for i := range table {
		table[i] = 0xFF
	}
	header := make([]byte, 1024)
	copy(header, "cxsparse\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")
	be.PutUint64(header[16:], tableAt)
	be.PutUint32(header[24:], 1<<16)
	be.PutUint32(header[28:], uint32(blocks))
	be.PutUint32(header[32:], block)
	kind := byte(3)
	var behind []byte // the table: locators, then blocks
	if on != "" {
		kind = 4
		parent, err := os.ReadFile(on)
		if err != nil {
			return err
		}
		copy(header[40:56], parent[len(parent)-512+68:])
		for i, u := range utf16.Encode([]rune(filepath.Base(on))) {
			be.PutUint16(header[64+2*i:], u)
		}
		for n, l := range [][2]string{{"W2ku", `C:\VMs\Virtual Hard Disks\` + filepath.Base(on)}, {"W2ru", `.\` + filepath.Base(on)}} {
			var text []byte
			for _, u := range utf16.Encode([]rune(l[1])) {
				text = binary.LittleEndian.AppendUint16(text, u)
			}
			e := header[576+24*n:]
			copy(e, l[0])
			be.PutUint32(e[4:], 512)
			be.PutUint32(e[8:], uint32(len(text)))
			be.PutUint64(e[16:], uint64(tableAt+len(table)+len(behind)))
			behind = append(behind, append(text, make([]byte, 512-len(text))...)...)
		}
	}
	for n := range blocks {
		bits, data := make([]byte, block/512/8), make([]byte, block)
		own := false
		for _, p := range patches {
			for at := range int64(len(p.Data)) / 512 {
				if off := p.Offset + at*512 - n*block; off >= 0 && off < block {
					own = true
					bits[off/512/8] |= 0x80 >> (off / 512 % 8)
					copy(data[off:], p.Data[at*512:(at+1)*512])
				}
			}
		}
		if own {
			be.PutUint32(table[4*n:], uint32((tableAt+len(table)+len(behind))/512))
			behind = append(append(behind, bits...), data...)
		}
	}
	footer := make([]byte, 512)
	copy(footer, "conectix\x00\x00\x00\x02\x00\x01\x00\x00")
	be.PutUint64(footer[16:], headerAt)
	copy(footer[28:], "win \x00\x0A\x00\x00Wi2k")
	be.PutUint64(footer[40:], uint64(size))
	be.PutUint64(footer[48:], uint64(size))
	footer[63] = kind
	id := sha256.Sum256([]byte(strings.ToLower(filepath.Base(path))))
	copy(footer[68:84], id[:])
	checksum(footer, 64)
	checksum(header, 36)
	return newFile(path, func(f *os.File) error {
		for _, b := range [][]byte{footer, header, table, behind, footer} {
			if _, err := f.Write(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// checksum is the complement of the sum of all bytes but its own.
func checksum(b []byte, at int) {
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
}
