// Package id holds the names of things: vaults, jobs, points, guests, disks,
// chunks, objects, keys and dedup domains.
//
// Every kind of name is its own type, so that the compiler refuses a chunk
// where a pack is meant. All of them are plain byte arrays: comparable, usable
// as map keys, zero when absent. On the wire (msgpack) an id is its bytes; for
// people (text, JSON, flags) it is lower-case hex, except [Guest] and [Disk],
// which print as UUIDs because that is what hypervisors call them.
//
// The package is the leaf of the tree: everyone may import it, it imports only
// the standard library and a UUID generator.
package id

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

type (
	// Vault is the SHA-256 of the vault's Ed25519 public signing key.
	Vault [32]byte
	// Job is a UUIDv7: ids of later jobs sort after those of earlier ones.
	Job [16]byte
	// Point names a committed recovery point; see [NewPoint].
	Point [16]byte
	// Guest is the hypervisor's UUID of a virtual machine.
	Guest [16]byte
	// Disk is the UUID of one virtual disk of one guest; see [NewDisk].
	Disk [16]byte
	// Chunk is the keyed BLAKE3 of a chunk's plain bytes.
	Chunk [32]byte
	// Object is the SHA-256 of a stored object's bytes; packs and tables are named by it.
	Object [32]byte
	// Key names one wrapped keyset of a vault (a password or the recovery key).
	Key [16]byte
	// Domain names a dedup domain: an id key, a cut key and a data keyset.
	Domain [16]byte
)

// NewJob returns a fresh job id. It panics only if the system has no randomness.
func NewJob() Job { return Job(uuid.Must(uuid.NewV7())) }

// NewKey returns a fresh random key id.
func NewKey() (k Key) { random(k[:]); return k }

// NewDomain returns a fresh random domain id.
func NewDomain() (d Domain) { random(d[:]); return d }

// random fills b; crypto/rand.Read never fails since Go 1.24, it ends the process instead.
func random(b []byte) { _, _ = rand.Read(b) }

// NewPoint derives the id of the point that job makes of guest. A job makes at
// most one point of a guest, so the id is unique, and a repeated commit of the
// same work has the same name.
func NewPoint(j Job, g Guest) Point {
	h := sha256.New()
	h.Write([]byte("millrace point\x00"))
	h.Write(j[:])
	h.Write(g[:])
	return Point(h.Sum(nil)[:16])
}

// NewGuest derives the id of a guest that no hypervisor has named: UUIDv5 of
// the vault's id and the canonical path of its files.
func NewGuest(v Vault, canonicalPath string) Guest {
	return Guest(uuid.NewSHA1(uuid.NewSHA1(uuid.NameSpaceOID, v[:]), []byte(canonicalPath)))
}

// NewDisk derives a disk's id from its guest and the key under which the guest
// knows it (a file name inside the guest's folder, a controller address).
func NewDisk(g Guest, key string) Disk {
	return Disk(uuid.NewSHA1(uuid.UUID(g), []byte("disk\x00"+key)))
}

// Sum names an object by its bytes.
func Sum(b []byte) Object { return Object(sha256.Sum256(b)) }

func (v Vault) String() string  { return hex.EncodeToString(v[:]) }
func (j Job) String() string    { return hex.EncodeToString(j[:]) }
func (p Point) String() string  { return hex.EncodeToString(p[:]) }
func (g Guest) String() string  { return uuid.UUID(g).String() }
func (d Disk) String() string   { return uuid.UUID(d).String() }
func (c Chunk) String() string  { return hex.EncodeToString(c[:]) }
func (o Object) String() string { return hex.EncodeToString(o[:]) }
func (k Key) String() string    { return hex.EncodeToString(k[:]) }
func (d Domain) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether the id is absent. encoding/json's omitzero uses it.
func (v Vault) IsZero() bool  { return v == Vault{} }
func (j Job) IsZero() bool    { return j == Job{} }
func (p Point) IsZero() bool  { return p == Point{} }
func (g Guest) IsZero() bool  { return g == Guest{} }
func (d Disk) IsZero() bool   { return d == Disk{} }
func (c Chunk) IsZero() bool  { return c == Chunk{} }
func (o Object) IsZero() bool { return o == Object{} }
func (k Key) IsZero() bool    { return k == Key{} }
func (d Domain) IsZero() bool { return d == Domain{} }

// Short is the first eight hex digits, for tables that people read.
func Short(id fmt.Stringer) string {
	s := strings.ReplaceAll(id.String(), "-", "")
	return s[:min(8, len(s))]
}

// Compare orders chunks as tables and indexes do: by their bytes.
func (c Chunk) Compare(d Chunk) int { return bytes.Compare(c[:], d[:]) }
