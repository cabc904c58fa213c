package seal

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/frame"
)

// ObjectType is the role a sealed object plays; it is bound into the seal. The
// values are on disk: append only.
type ObjectType uint8

// The roles. What names each (the last part of its associated data) is chosen
// by the package that writes it, and documented on its format page.
const (
	TypeChunk      ObjectType = 1  // data keyset of the domain; name: the chunk id
	TypePackFooter ObjectType = 2  // name: the pack's header and the footer's offset
	TypeTablePage  ObjectType = 3  // name: the table's UID and the page number
	TypeTableIndex ObjectType = 4  // name: the table's header
	TypeSegment    ObjectType = 5  // name: SHA-256 of the segment's clear header
	TypeKey        ObjectType = 6  // the secrets wrapped by a password; name: the clear envelope
	TypeCatalog    ObjectType = 7  // name: the snapshot's place in the ledger and the part's number
	TypeRotation   ObjectType = 9  // keys of the next generation, sealed with the meta keyset of the last; name: the object's
	TypeDomain     ObjectType = 10 // keys of a domain apart, sealed with the meta keyset; name: the object's
	TypeCall       ObjectType = 8  // said between conductors and pools of workers, never stored; name: the subject
)

// The associated data of everything sealed, in this order, integers big-endian:
//
//	"millrace" ‖ format u16 ‖ type u8 ‖ vault id 32 ‖ scope 16 ‖ Tink key id u32 ‖ name
//
// Scope is the domain of a chunk, the key id of a key envelope and zero for the
// rest. All parts but the last have fixed lengths, so no two differ in meaning
// and agree in bytes. The Tink key id is there because GCM does not commit to
// its key: a rotated keyset cannot be made to open a ciphertext two ways.
const (
	aadMagic = "millrace"
	aadFixed = len(aadMagic) + 2 + 1 + 32 + 16 + 4
	aadRoom  = aadFixed + 128 // names longer than this cost an allocation more
)

func appendAAD(dst []byte, t ObjectType, v id.Vault, scope [16]byte, tinkKey uint32, name []byte) []byte {
	dst = append(dst, aadMagic...)
	dst = binary.BigEndian.AppendUint16(dst, Format)
	dst = append(dst, byte(t))
	dst = append(dst, v[:]...)
	dst = append(dst, scope[:]...)
	dst = binary.BigEndian.AppendUint32(dst, tinkKey)
	return append(dst, name...)
}

// A Tink ciphertext of an XAES-256-GCM key with the TINK prefix: 1 ‖ key id u32 ‖
// salt 12 ‖ nonce 12 ‖ bytes ‖ tag 16.
const (
	tinkPrefix = 5
	// Overhead is how many bytes sealing adds to a frame or an object.
	Overhead = tinkPrefix + 12 + 12 + 16
)

func (b *box) seal(dst []byte, t ObjectType, v id.Vault, scope [16]byte, name, plain []byte) ([]byte, error) {
	aad := appendAAD(make([]byte, 0, aadRoom), t, v, scope, b.primary, name)
	sealed, err := b.aead.Encrypt(plain, aad)
	if err != nil {
		return nil, fmt.Errorf("seal %d bytes: %w", len(plain), err)
	}
	return join(dst, sealed), nil
}

func (b *box) open(dst []byte, t ObjectType, v id.Vault, scope [16]byte, name, sealed []byte) ([]byte, error) {
	if len(sealed) < tinkPrefix || sealed[0] != 1 {
		return nil, fmt.Errorf("%d bytes are no sealed object: %w", len(sealed), ErrDamaged)
	}
	tinkKey := binary.BigEndian.Uint32(sealed[1:tinkPrefix])
	if !b.holds(tinkKey) {
		return nil, fmt.Errorf("sealed with key %08x, which this vault does not have: %w", tinkKey, ErrDamaged)
	}
	aad := appendAAD(make([]byte, 0, aadRoom), t, v, scope, tinkKey, name)
	plain, err := b.aead.Decrypt(sealed, aad)
	if err != nil { // Tink's text says no more than this
		return nil, fmt.Errorf("%d sealed bytes do not authenticate: %w", len(sealed), ErrDamaged)
	}
	return join(dst, plain), nil
}

// join appends fresh, which nobody else holds, to dst. Tink allocates every
// output; a caller without a buffer of its own gets that one as it is.
func join(dst, fresh []byte) []byte {
	if dst == nil {
		return fresh
	}
	return append(dst, fresh...)
}

// SealChunk appends the sealed form of plain, the frame of chunk c, to dst,
// len(plain)+[Overhead] bytes. It needs PartData. A nil dst costs no copy.
func (k *Keys) SealChunk(dst []byte, d id.Domain, c id.Chunk, plain []byte) ([]byte, error) {
	b, err := k.data(d)
	if err != nil {
		return nil, err
	}
	dst, err = b.seal(dst, TypeChunk, k.h.vault, d, c[:], plain)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", id.Short(c), err)
	}
	return dst, nil
}

// OpenChunk appends the frame inside sealed to dst: ErrDamaged if these are not
// the bytes that SealChunk made for this chunk, domain and vault. It needs
// PartData. A nil dst costs no copy.
func (k *Keys) OpenChunk(dst []byte, d id.Domain, c id.Chunk, sealed []byte) ([]byte, error) {
	b, err := k.data(d)
	if err != nil {
		return nil, err
	}
	dst, err = b.open(dst, TypeChunk, k.h.vault, d, c[:], sealed)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", c, err)
	}
	return dst, nil
}

// Decode appends the plain bytes of chunk c to dst: opened, decompressed and
// hashed again. Only when the id of the result is c does it return without
// error, so what it returns is what was backed up; everything else is
// ErrDamaged. ids hashes under the id key of d ([Keys.IDKey]) and is used by one
// goroutine at a time, as ever.
func (k *Keys) Decode(d id.Domain, c id.Chunk, sealed, dst []byte, ids *chunk.IDs) ([]byte, error) {
	packed, err := k.OpenChunk(nil, d, c, sealed)
	if err != nil {
		return nil, err
	}
	start := len(dst)
	dst, err = k.h.decoder.Decode(dst, packed, frame.MaxContent)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", c, err)
	}
	if got := ids.ID(dst[start:]); got != c {
		return nil, fmt.Errorf("chunk %s: its bytes have the id %s: %w", c, got, ErrDamaged)
	}
	return dst, nil
}

// SealMeta appends the sealed form of plain to dst: pack footers, table pages,
// ledger bodies. t and name bind it to its role and place. It needs PartMeta.
func (k *Keys) SealMeta(dst []byte, t ObjectType, name, plain []byte) ([]byte, error) {
	b, err := k.metaFor(t)
	if err != nil {
		return nil, err
	}
	return b.seal(dst, t, k.h.vault, [16]byte{}, name, plain)
}

// OpenMeta appends what SealMeta sealed with the same t and name to dst, else
// ErrDamaged. It needs PartMeta.
func (k *Keys) OpenMeta(dst []byte, t ObjectType, name, sealed []byte) ([]byte, error) {
	b, err := k.metaFor(t)
	if err != nil {
		return nil, err
	}
	return b.open(dst, t, k.h.vault, [16]byte{}, name, sealed)
}

func (k *Keys) metaFor(t ObjectType) (*box, error) {
	if t == TypeChunk || t == TypeKey {
		return nil, fmt.Errorf("object type %d is not sealed with the meta keyset: %w", t, ErrNoPart)
	}
	if k.h.meta == nil {
		return nil, fmt.Errorf("meta keyset: %w", ErrNoPart)
	}
	return k.h.meta, nil
}
