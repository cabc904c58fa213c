package vault

import (
	"github.com/millrace-backup/millrace/vault/frame"
	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/parts"
	"github.com/millrace-backup/millrace/vault/seal"
)

// What the rest of the program knows of packages seal, frame, kdf and parts, so that it
// needs only this one. These are the same types and values, not wrappers.
type (
	// Keys is what a process holds of a vault's secrets; see [seal.Keys].
	Keys = seal.Keys
	// Part names kinds of secrets that can be granted; see [seal.Part].
	Part = seal.Part
	// ObjectType is the role of a sealed object; see [seal.ObjectType].
	ObjectType = seal.ObjectType
	// Codec compresses; see [frame.Codec].
	Codec = frame.Codec
	// PackRange is a place on a disk, in bytes.
	PackRange = parts.Range
	// KDF says how a password becomes a key; see [kdf.Params].
	KDF = kdf.Params
	// Decoder undoes any Codec; see [frame.Decoder].
	Decoder = frame.Decoder
)

// The parts of a grant and the roles of sealed objects.
const (
	PartMeta = seal.PartMeta
	PartData = seal.PartData
	PartIDs  = seal.PartIDs
	PartCut  = seal.PartCut
	PartSign = seal.PartSign
	PartAll  = seal.PartAll

	TypeChunk      = seal.TypeChunk
	TypePackFooter = seal.TypePackFooter
	TypeTablePage  = seal.TypeTablePage
	TypeTableIndex = seal.TypeTableIndex
	TypeSegment    = seal.TypeSegment
	TypeKey        = seal.TypeKey
	TypeCatalog    = seal.TypeCatalog
	TypeCall       = seal.TypeCall
	TypeRotation   = seal.TypeRotation
)

// Sizes in bytes.
const (
	Overhead      = seal.Overhead    // that sealing adds
	FrameOverhead = frame.Overhead   // the most that a frame adds
	MaxChunk      = frame.MaxContent // the largest cell, so the longest chunk
)

// DefaultKDF is how new passwords are hardened; see [kdf.Default].
func DefaultKDF() KDF { return kdf.Default() }

// LoadGrant makes keys of what [Keys.Grant] returned; see [seal.LoadGrant].
func LoadGrant(grant []byte) (*Keys, error) { return seal.LoadGrant(grant) }

// NewCodec returns the codec of that name; see [frame.New].
func NewCodec(name string) (Codec, error) { return frame.New(name) }

// Codecs are the names NewCodec knows, in the order to show them.
func Codecs() []string { return frame.Codecs() }

// DecodeFrame appends the content of one frame to dst; see [frame.Decoder].
func DecodeFrame(dst, b []byte, maxRaw int) ([]byte, error) { return frame.Decode(dst, b, maxRaw) }
