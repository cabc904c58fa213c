package saved

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

// A snapshot, integers big-endian:
//
//	header   "MRCATA" ‖ format u16 ‖ vault 32 ‖ position u64 ‖ size u64 ‖ root 32 ‖
//	         shape 32 ‖ state hash 32 ‖ parts u32 ‖ SHA-256 of the parts 32
//	         ‖ Ed25519 signature 64
//	parts    {length u32 ‖ sealed part}…
//
// A part is sealed as TypeCatalog under vault, position, size, root and its number;
// inside is a frame of entries, each uvarint length ‖ entry (see catalog.ReadImage).
const (
	magic      = "MRCATA"
	format     = 1
	headerSize = len(magic) + 2 + 32 + 8 + 8 + 32 + 32 + 32 + 4 + 32
	signedSize = headerSize + 64
	signedAs   = "millrace catalog snapshot\n"

	partTarget = 1 << 20 // bytes of entries in a part
	maxPart    = vault.MaxChunk
	maxParts   = 1 << 12
	// maxObject is the largest snapshot that is read. It bounds what a reader
	// takes into memory; a state too large for it is not saved.
	maxObject = 256 << 20

	folder = "catalogs/"
)

// errUnfit marks a snapshot that is not for this program or this ledger. Nothing
// is wrong with it.
var errUnfit = errors.New("not a snapshot for this reader")

// header is the clear part.
type header struct {
	at    ledger.Reached
	root  events.Hash
	shape events.Hash
	hash  events.Hash // of the state
	parts uint32
	sum   events.Hash
}

func (h header) encode(v id.Vault) []byte {
	b := append(make([]byte, 0, signedSize), magic...)
	b = binary.BigEndian.AppendUint16(b, format)
	b = append(b, v[:]...)
	b = binary.BigEndian.AppendUint64(b, h.at.Seq)
	b = binary.BigEndian.AppendUint64(b, h.at.Size)
	b = append(b, h.root[:]...)
	b = append(b, h.shape[:]...)
	b = append(b, h.hash[:]...)
	b = binary.BigEndian.AppendUint32(b, h.parts)
	return append(b, h.sum[:]...)
}

// parseHeader checks form and signature of the first bytes of a snapshot.
func parseHeader(cfg vault.Config, b []byte) (h header, err error) {
	if len(b) < signedSize || string(b[:len(magic)]) != magic {
		return h, fmt.Errorf("no snapshot: %w", vault.ErrDamaged)
	}
	if n := binary.BigEndian.Uint16(b[len(magic):]); n != format {
		return h, fmt.Errorf("format %d: %w", n, errUnfit)
	}
	if err := cfg.Verify(append([]byte(signedAs), b[:headerSize]...), b[headerSize:signedSize]); err != nil {
		return h, err
	}
	if id.Vault(b[len(magic)+2:][:32]) != cfg.ID {
		return h, fmt.Errorf("snapshot of another vault: %w", vault.ErrDamaged)
	}
	return readHeader(b), nil
}

// readHeader takes a header apart; b is as long as one.
func readHeader(b []byte) (h header) {
	r := b[len(magic)+2+32:]
	h.at = ledger.Reached{Seq: binary.BigEndian.Uint64(r), Size: binary.BigEndian.Uint64(r[8:])}
	h.root, h.shape, h.hash = events.Hash(r[16:48]), events.Hash(r[48:80]), events.Hash(r[80:112])
	h.parts, h.sum = binary.BigEndian.Uint32(r[112:]), events.Hash(r[116:148])
	return h
}

// partName is what a part is sealed under.
func (h header) partName(v id.Vault, n uint32) []byte {
	b := append(make([]byte, 0, 32+8+8+32+4), v[:]...)
	b = binary.BigEndian.AppendUint64(b, h.at.Seq)
	b = binary.BigEndian.AppendUint64(b, h.at.Size)
	b = append(b, h.root[:]...)
	return binary.BigEndian.AppendUint32(b, n)
}

// encode makes the object of a state. h has all but parts and sum.
func encode(v *vault.Vault, h header, s *catalog.State) ([]byte, error) {
	zstd, err := vault.NewCodec("zstd")
	if err != nil {
		return nil, err
	}
	var body, plain []byte
	flush := func() error {
		if len(plain) == 0 {
			return nil
		}
		sealed, err := v.Keys.SealMeta(nil, vault.TypeCatalog, h.partName(v.ID, h.parts), zstd.Encode(nil, plain))
		if err != nil {
			return err
		}
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(sealed))), sealed...)
		plain = plain[:0]
		if h.parts++; h.parts > maxParts || signedSize+len(body) > maxObject {
			return fmt.Errorf("state of %d points: %w", len(s.Points), ledger.ErrTooLarge)
		}
		return nil
	}
	for e, err := range s.Image() {
		if err != nil {
			return nil, err
		}
		if len(e)+binary.MaxVarintLen64 > maxPart {
			return nil, fmt.Errorf("entry of %d bytes: %w", len(e), ledger.ErrTooLarge)
		}
		if len(plain) > 0 && len(plain)+len(e) > partTarget {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		plain = append(binary.AppendUvarint(plain, uint64(len(e))), e...)
	}
	if err := flush(); err != nil {
		return nil, err
	}
	h.sum = sha256.Sum256(body)
	clear := h.encode(v.ID)
	signature, err := v.Keys.Sign(append([]byte(signedAs), clear...))
	if err != nil {
		return nil, err
	}
	return slices.Concat(clear, signature, body), nil
}

// decode makes the state of an object whose header was believed.
func decode(v *vault.Vault, h header, b []byte) (*catalog.State, error) {
	body := b[signedSize:]
	if sha256.Sum256(body) != [32]byte(h.sum) || h.parts > maxParts {
		return nil, fmt.Errorf("its parts are not those that were signed: %w", vault.ErrDamaged)
	}
	s, err := catalog.ReadImage(entries(v, h, body))
	if err != nil {
		return nil, err
	}
	if s.Next != h.at.Seq || s.Hash() != h.hash {
		return nil, fmt.Errorf("state %s before %d is not the one that was saved: %w", s.Hash(), s.Next, vault.ErrDamaged)
	}
	return s, nil
}

// entries yields the entries of all parts, which it opens one at a time.
func entries(v *vault.Vault, h header, body []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var room []byte
		for n := range h.parts {
			plain, rest, err := openPart(v, h, n, body, room)
			if err != nil {
				yield(nil, fmt.Errorf("part %d: %w", n, err))
				return
			}
			body, room = rest, plain[:0]
			for len(plain) > 0 {
				length, at := binary.Uvarint(plain)
				if at <= 0 || length > uint64(len(plain)-at) {
					yield(nil, fmt.Errorf("part %d: entry of %d bytes: %w", n, length, vault.ErrDamaged))
					return
				}
				// Copied: what is decoded may refer to it, and room is used again.
				if !yield(bytes.Clone(plain[at:at+int(length)]), nil) {
					return
				}
				plain = plain[at+int(length):]
			}
		}
		if len(body) > 0 {
			yield(nil, fmt.Errorf("%d bytes behind the last part: %w", len(body), vault.ErrDamaged))
		}
	}
}

func openPart(v *vault.Vault, h header, n uint32, body, room []byte) (plain, rest []byte, err error) {
	if len(body) < 4 {
		return nil, nil, fmt.Errorf("cut off: %w", vault.ErrDamaged)
	}
	length := binary.BigEndian.Uint32(body)
	if uint64(length) > uint64(len(body)-4) {
		return nil, nil, fmt.Errorf("%d bytes of %d: %w", length, len(body)-4, vault.ErrDamaged)
	}
	frame, err := v.Keys.OpenMeta(nil, vault.TypeCatalog, h.partName(v.ID, n), body[4:4+length])
	if err != nil {
		return nil, nil, err
	}
	plain, err = vault.DecodeFrame(room, frame, maxPart)
	return plain, body[4+length:], err
}

// objectName names the snapshot of a place in the ledger: 20 digits each sort as
// numbers do, and say where the ledger is known to reach before anything is read.
func objectName(at ledger.Reached) string {
	return fmt.Sprintf("%s%020d-%020d", folder, at.Seq, at.Size)
}

func parseName(name string) (at ledger.Reached, ok bool) {
	position, size, found := strings.Cut(strings.TrimPrefix(name, folder), "-")
	if !found || len(position) != 20 || len(size) != 20 {
		return at, false
	}
	var err1, err2 error
	at.Seq, err1 = strconv.ParseUint(position, 10, 64)
	at.Size, err2 = strconv.ParseUint(size, 10, 64)
	return at, errors.Join(err1, err2) == nil && objectName(at) == name
}
