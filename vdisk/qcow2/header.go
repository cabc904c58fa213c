package qcow2

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"regexp"
	"strings"

	"github.com/millrace-backup/millrace/vdisk"
)

const (
	magic        = "QFI\xfb"
	sizeV2       = 72  // of the header
	sizeV3       = 104 // without what came later
	maxName      = 1023
	maxL1        = 32 << 20 // bytes; QEMU's limit too
	minBits      = 9        // of a cluster
	maxBits      = 21
	minExtended  = 14 // of a cluster with extended L2 entries
	subclusters  = 32 // of a cluster
	maxDiskSize  = 1 << 60
	maxHeader    = 1 << maxBits // what is looked at for extensions
	compressZlib = 0
	compressZstd = 1
)

// Incompatible features: who does not know one cannot read the image.
const (
	featureDirty       = 1 << 0 // refcounts may be wrong
	featureCorrupt     = 1 << 1
	featureData        = 1 << 2 // data are in another file
	featureCompression = 1 << 3 // not zlib
	featureExtended    = 1 << 4 // L2 entries of 128 bits
	knownFeatures      = 1<<5 - 1
)

// Header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xE2792ACA
	extFeatureNames  = 0x6803F857
	extDataFile      = 0x44415441
)

// header is what the first cluster says.
type header struct {
	version       uint32
	clusterBits   uint
	size          int64
	l1At          uint64
	l1Size        uint32 // entries
	snapshotsAt   uint64
	snapshots     uint32
	compression   uint8
	extended      bool
	backing       string
	backingFormat string
}

func readHeader(file vdisk.Image) (header, error) {
	var h header
	if file.Size() < sizeV2 {
		return h, vdisk.Truncated("file of %d bytes has no header", file.Size())
	}
	b := make([]byte, min(file.Size(), maxHeader))
	if err := vdisk.ReadFull(file, b[:min(len(b), 4096)], 0); err != nil {
		return h, err
	}
	be := binary.BigEndian
	if string(b[:4]) != magic {
		return h, vdisk.BadFormat("header begins %q", b[:4])
	}
	h.version = be.Uint32(b[4:])
	switch h.version {
	case 2, 3:
	case 0:
		return h, vdisk.BadFormat("version 0: its writer did not finish it")
	default:
		return h, vdisk.Unsupported("version %d", h.version)
	}
	switch n := be.Uint32(b[20:]); {
	case n < minBits:
		return h, vdisk.BadFormat("clusters of 2^%d bytes", n)
	case n > maxBits:
		return h, vdisk.Unsupported("clusters of 2^%d bytes; 2^%d is the largest that can be read", n, maxBits)
	default:
		h.clusterBits = uint(n)
	}
	// The header, its extensions and the backing file's name are in the first
	// cluster; a name may begin behind it only in files of which no writer is known.
	b = b[:min(len(b), 1<<h.clusterBits)]
	if err := vdisk.ReadFull(file, b, 0); err != nil {
		return h, err
	}
	if size := be.Uint64(b[24:]); size > maxDiskSize {
		return h, vdisk.Unsupported("disk of %d bytes", size)
	}
	h.size = int64(be.Uint64(b[24:]))
	h.l1Size, h.l1At = be.Uint32(b[36:]), be.Uint64(b[40:])
	h.snapshots, h.snapshotsAt = be.Uint32(b[60:]), be.Uint64(b[64:])
	switch method := be.Uint32(b[32:]); method {
	case 0:
	case 1:
		return h, vdisk.Unsupported("encrypted with AES, whose key is not here")
	case 2:
		return h, vdisk.Unsupported("encrypted with LUKS, whose key is not here")
	default:
		return h, vdisk.Unsupported("encrypted, by method %d", method)
	}
	length, features := uint32(sizeV2), uint64(0)
	if h.version == 3 {
		if len(b) < sizeV3 {
			return h, vdisk.Truncated("file of %d bytes has no header", len(b))
		}
		features, length = be.Uint64(b[72:]), be.Uint32(b[100:])
	}
	if int64(length) > int64(len(b)) || h.version == 3 && (length < sizeV3 || length%8 != 0) {
		return h, vdisk.BadFormat("header of %d bytes in a cluster of %d", length, len(b))
	}
	if length > sizeV3 {
		h.compression = b[sizeV3]
	}
	return h, h.more(b, length, features)
}

// more reads what follows the header and judges the features.
func (h *header) more(b []byte, length uint32, features uint64) error {
	be := binary.BigEndian
	end := len(b)
	nameAt, nameSize := be.Uint64(b[8:]), be.Uint32(b[16:])
	if nameAt != 0 {
		switch {
		case nameSize > maxName:
			return vdisk.BadFormat("backing file's name has %d bytes", nameSize)
		case nameAt > uint64(len(b)) || uint64(len(b))-nameAt < uint64(nameSize):
			return vdisk.BadFormat("backing file's name has %d bytes at %d, outside the first cluster", nameSize, nameAt)
		}
		h.backing = string(b[nameAt:][:nameSize])
		if int(nameAt) >= int(length) {
			end = int(nameAt)
		}
	}
	dataFile, names := "", map[byte]string{}
	for at := int(length); end-at >= 8; {
		kind, n := be.Uint32(b[at:]), int64(be.Uint32(b[at+4:]))
		if kind == extEnd {
			break
		}
		at += 8
		if n > int64(end-at) {
			return vdisk.BadFormat("header extension %#x has %d bytes, %d are left", kind, n, end-at)
		}
		content := b[at : at+int(n)]
		switch kind {
		case extBackingFormat:
			h.backingFormat = string(content)
		case extDataFile:
			dataFile = string(content)
		case extFeatureNames:
			for ; len(content) >= 48; content = content[48:] {
				if content[0] == 0 { // an incompatible one
					names[content[1]] = string(bytes.TrimRight(content[2:48], "\x00"))
				}
			}
		}
		at += (int(n) + 7) / 8 * 8
	}
	return h.judge(features, dataFile, names)
}

func (h *header) judge(features uint64, dataFile string, names map[byte]string) error {
	h.extended = features&featureExtended != 0
	switch unknown := features &^ knownFeatures; {
	case unknown != 0:
		bit := byte(bits.TrailingZeros64(unknown))
		return vdisk.Unsupported("incompatible feature %d (%q)", bit, names[bit])
	case features&featureData != 0:
		return vdisk.Unsupported("data are in another file, %q", dataFile)
	case features&featureCorrupt != 0:
		return vdisk.BadFormat("marked as corrupt: repair it with qemu-img check -r all, and look at what it lost")
	case h.compression != compressZlib && features&featureCompression == 0:
		return vdisk.BadFormat("compression type %d without its feature bit", h.compression)
	case h.compression != compressZlib && h.compression != compressZstd:
		return vdisk.Unsupported("compression type %d", h.compression)
	case h.extended && h.clusterBits < minExtended:
		return vdisk.BadFormat("extended L2 entries for clusters of 2^%d bytes", h.clusterBits)
	}
	return nil
}

// parent says what the header says about the backing file.
func (h *header) parent() (vdisk.Parent, error) {
	formats := map[string]string{"vpc": "vhd"} // where QEMU has another word
	p := vdisk.Parent{Format: h.backingFormat}
	if ours, ok := formats[p.Format]; ok {
		p.Format = ours
	}
	name := h.backing
	drive := regexp.MustCompile(`^[A-Za-z]:[\\/]`).MatchString(name)
	if scheme := regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`).FindString(name); scheme != "" && !drive {
		if scheme != "file:" {
			return p, vdisk.Unsupported("backing file %q is not a file", name)
		}
		name = strings.TrimPrefix(name, scheme)
	}
	path := vdisk.ParentPath{Kind: vdisk.RelativePath, Path: name}
	switch {
	case name == "" || strings.ContainsRune(name, 0):
		return p, vdisk.BadFormat("backing file's name is %q", h.backing)
	case drive || strings.HasPrefix(name, `\\`):
		path.Kind, path.Windows = vdisk.AbsolutePath, true
	case strings.HasPrefix(name, "/"):
		path.Kind = vdisk.AbsolutePath
	}
	p.Paths = []vdisk.ParentPath{path}
	return p, nil
}
