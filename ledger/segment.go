package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
)

const (
	segmentMagic  = "MRSEGM"
	segmentFormat = 1
	segmentFixed  = len(segmentMagic) + 2 + 4 // bytes before the header
	// A job that has more to say than these splits it over several segments.
	maxHeader  = 4 << 20
	maxBody    = 16 << 20
	maxSegment = segmentFixed + maxHeader + maxBody + vault.Overhead + vault.FrameOverhead

	segmentFolder    = "ledger/"
	checkpointFolder = "checkpoints/"
	tableFolder      = "tables/"
)

// ObjectRef names an object of the vault and what its bytes must be, so that
// its absence or damage shows without a password.
type ObjectRef struct {
	Name string      `json:"name"` // as in the store: packs/…, tables/…
	Sum  events.Hash `json:"sum"`  // SHA-256 of its bytes
	Size int64       `json:"size"`
}

// Header is the clear part of a segment. Its order on the wire is fixed;
// BodySum stays last (see [Segment]).
type Header struct {
	Vault    id.Vault      `json:"vault"`
	Seq      uint64        `json:"seq"`
	PrevSize uint64        `json:"prev_size"` // leaves before this segment
	PrevRoot events.Hash   `json:"prev_root"`
	Edge     []events.Hash `json:"edge"` // right edge of the tree before it, largest subtree first
	Job      id.Job        `json:"job"`
	MetaKey  uint32        `json:"meta_key"` // Tink key id the body is sealed with
	Time     events.Micros `json:"time"`
	In       []ObjectRef   `json:"in"`  // objects brought in
	Out      []ObjectRef   `json:"out"` // objects retired
	BodySum  events.Hash   `json:"body_sum"`
}

// Segment is one object of the ledger: its clear header and its sealed body.
//
// The header names the body's SHA-256 and the body is sealed under the name of
// the header: SHA-256 of everything before the last 32 bytes of the header,
// which are BodySum.
type Segment struct {
	Header
	clear []byte // everything before the body
	body  []byte
}

// segmentName is the object name of segment seq: 20 digits sort as numbers do.
func segmentName(seq uint64) string { return numbered(segmentFolder, seq) }

func numbered(folder string, n uint64) string { return fmt.Sprintf("%s%020d", folder, n) }

// number takes a name made by numbered apart.
func number(folder, name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, folder)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// leaves are what the segment adds to the tree: one leaf for all that comes
// before its body, and one for each table it brings in, so that a table's name
// stays provable when its body is deleted.
func (s *Segment) leaves() []events.Hash {
	leaves := []events.Hash{s.leaf()}
	for _, o := range s.In {
		if strings.HasPrefix(o.Name, tableFolder) {
			b, _ := events.Marshal(o) // a string, a sum and a number always encode
			leaves = append(leaves, events.Hash(tlog.RecordHash(b)))
		}
	}
	return leaves
}

func (s *Segment) leaf() events.Hash { return events.Hash(tlog.RecordHash(s.clear)) }

func (s *Segment) before() merkle.Tree { return merkle.Tree{Size: s.PrevSize, Edge: s.Edge} }

// after is the tree that ends with this segment, if it may be believed.
func (s *Segment) after() merkle.Tree { return s.before().With(s.leaves()...) }

// bytes are the object's bytes.
func (s *Segment) bytes() []byte { return append(bytes.Clone(s.clear), s.body...) }

// rotated reports that the vault has keys of a later generation than v's. What a header
// says of its key is not proof enough: anyone can write one that no checkpoint covers.
// Keys are signed.
func rotated(ctx context.Context, v *vault.Vault) bool {
	for k, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err == nil && k.Generation > v.Keys.Generation() {
			return true
		}
	}
	return false
}

// sealName is what the body's seal is bound to.
func sealName(clear []byte) []byte {
	sum := sha256.Sum256(clear[:len(clear)-sha256.Size])
	return sum[:]
}

// clearPart encodes all that comes before the body.
func clearPart(h Header) ([]byte, error) {
	head, err := events.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := events.Walk(head); err != nil || len(head) > maxHeader {
		return nil, fmt.Errorf("segment header of %d bytes for %d objects: %w", len(head), len(h.In)+len(h.Out), ErrTooLarge)
	}
	b := append(make([]byte, 0, segmentFixed+len(head)), segmentMagic...)
	b = binary.BigEndian.AppendUint16(b, segmentFormat)
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	return append(b, head...), nil
}

// sealSegment makes a segment of a header, whose BodySum it sets, and records.
func sealSegment(k *vault.Keys, h Header, records []events.Record) (*Segment, error) {
	plain, err := events.EncodeRecords(records)
	if err != nil {
		return nil, err
	}
	// What the reader's bounds would refuse must not be written.
	if _, err := events.DecodeRecords(plain); err != nil || len(plain) > maxBody {
		return nil, fmt.Errorf("segment body of %d bytes in %d records: %w", len(plain), len(records), ErrTooLarge)
	}
	zstd, err := vault.NewCodec("zstd")
	if err != nil {
		return nil, err
	}
	h.BodySum = events.Hash{}
	clear, err := clearPart(h)
	if err != nil {
		return nil, err
	}
	body, err := k.SealMeta(nil, vault.TypeSegment, sealName(clear), zstd.Encode(nil, plain))
	if err != nil {
		return nil, err
	}
	h.BodySum = sha256.Sum256(body)
	copy(clear[len(clear)-sha256.Size:], h.BodySum[:])
	return &Segment{Header: h, clear: clear, body: body}, nil
}

// parseSegment takes an object's bytes apart and checks all that needs neither
// keys nor neighbours: form, bounds, and the body's sum. It keeps b.
func parseSegment(b []byte) (*Segment, error) {
	if len(b) < segmentFixed || string(b[:len(segmentMagic)]) != segmentMagic {
		return nil, fmt.Errorf("not a segment: %w", vault.ErrDamaged)
	}
	if f := binary.BigEndian.Uint16(b[len(segmentMagic):]); f != segmentFormat {
		if f > segmentFormat {
			return nil, fmt.Errorf("segment of format %d: %w", f, vault.ErrNewer)
		}
		return nil, fmt.Errorf("segment of format %d: %w", f, vault.ErrDamaged)
	}
	n := int64(binary.BigEndian.Uint32(b[len(segmentMagic)+2:]))
	if n > maxHeader || n < sha256.Size || n > int64(len(b)-segmentFixed) || len(b) > maxSegment {
		return nil, fmt.Errorf("segment of %d bytes with a header of %d: %w", len(b), n, vault.ErrDamaged)
	}
	end := segmentFixed + int(n)
	s := &Segment{clear: b[:end:end], body: b[end:]}
	if err := events.Unmarshal(s.clear[segmentFixed:], &s.Header); err != nil {
		return nil, fmt.Errorf("segment header: %w: %w", vault.ErrDamaged, err)
	}
	if !bytes.Equal(s.clear[end-sha256.Size:], s.BodySum[:]) || sha256.Sum256(s.body) != [32]byte(s.BodySum) {
		return nil, fmt.Errorf("segment body is not the one its header names: %w", vault.ErrDamaged)
	}
	if before := s.before(); !before.Fits() || before.Root() != s.PrevRoot {
		return nil, fmt.Errorf("segment header: its edge is not that of its previous root: %w", vault.ErrDamaged)
	}
	return s, nil
}

// open decrypts the body.
func (s *Segment) open(ctx context.Context, v *vault.Vault) ([]events.Record, error) {
	if !v.Keys.HoldsMetaKey(s.MetaKey) && rotated(ctx, v) {
		return nil, fmt.Errorf("its body is sealed with key %08x: %w", s.MetaKey, vault.ErrRotated)
	}
	frame, err := v.Keys.OpenMeta(nil, vault.TypeSegment, sealName(s.clear), s.body)
	if err != nil {
		return nil, err
	}
	plain, err := vault.DecodeFrame(nil, frame, maxBody)
	if err != nil {
		return nil, err
	}
	records, err := events.DecodeRecords(plain)
	if err != nil {
		return nil, errors.Join(vault.ErrDamaged, err)
	}
	for i := range records {
		records[i].Position = s.Seq
	}
	return records, nil
}
