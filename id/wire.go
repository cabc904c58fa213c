package id

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// The wire form of an id is its bytes (encoding.BinaryMarshaler, which msgpack
// prefers), its readable form is its String (encoding.TextMarshaler, which
// JSON and flags prefer). Both decoders refuse any other length.

func fill(kind string, dst, src []byte) error {
	if len(src) != len(dst) {
		return fmt.Errorf("id: a %s has %d bytes, got %d", kind, len(dst), len(src))
	}
	copy(dst, src)
	return nil
}

func parse(kind string, dst []byte, text string) error {
	plain := strings.ReplaceAll(text, "-", "")
	if len(plain) != 2*len(dst) {
		return fmt.Errorf("id: a %s has %d hex digits, got %q", kind, 2*len(dst), text)
	}
	if _, err := hex.Decode(dst, []byte(plain)); err != nil {
		return fmt.Errorf("id: %q is not a %s: %w", text, kind, err)
	}
	return nil
}

// MarshalBinary returns the id's bytes.
func (v Vault) MarshalBinary() ([]byte, error) { return v[:], nil }

// UnmarshalBinary takes exactly len(Vault) bytes.
func (v *Vault) UnmarshalBinary(b []byte) error { return fill("vault", v[:], b) }

// MarshalText returns the form String prints.
func (v Vault) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (v *Vault) UnmarshalText(b []byte) error { return parse("vault", v[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (j Job) MarshalBinary() ([]byte, error) { return j[:], nil }

// UnmarshalBinary takes exactly len(Job) bytes.
func (j *Job) UnmarshalBinary(b []byte) error { return fill("job", j[:], b) }

// MarshalText returns the form String prints.
func (j Job) MarshalText() ([]byte, error) { return []byte(j.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (j *Job) UnmarshalText(b []byte) error { return parse("job", j[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (p Point) MarshalBinary() ([]byte, error) { return p[:], nil }

// UnmarshalBinary takes exactly len(Point) bytes.
func (p *Point) UnmarshalBinary(b []byte) error { return fill("point", p[:], b) }

// MarshalText returns the form String prints.
func (p Point) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (p *Point) UnmarshalText(b []byte) error { return parse("point", p[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (g Guest) MarshalBinary() ([]byte, error) { return g[:], nil }

// UnmarshalBinary takes exactly len(Guest) bytes.
func (g *Guest) UnmarshalBinary(b []byte) error { return fill("guest", g[:], b) }

// MarshalText returns the form String prints.
func (g Guest) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (g *Guest) UnmarshalText(b []byte) error { return parse("guest", g[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (d Disk) MarshalBinary() ([]byte, error) { return d[:], nil }

// UnmarshalBinary takes exactly len(Disk) bytes.
func (d *Disk) UnmarshalBinary(b []byte) error { return fill("disk", d[:], b) }

// MarshalText returns the form String prints.
func (d Disk) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (d *Disk) UnmarshalText(b []byte) error { return parse("disk", d[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (c Chunk) MarshalBinary() ([]byte, error) { return c[:], nil }

// UnmarshalBinary takes exactly len(Chunk) bytes.
func (c *Chunk) UnmarshalBinary(b []byte) error { return fill("chunk", c[:], b) }

// MarshalText returns the form String prints.
func (c Chunk) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (c *Chunk) UnmarshalText(b []byte) error { return parse("chunk", c[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (o Object) MarshalBinary() ([]byte, error) { return o[:], nil }

// UnmarshalBinary takes exactly len(Object) bytes.
func (o *Object) UnmarshalBinary(b []byte) error { return fill("object", o[:], b) }

// MarshalText returns the form String prints.
func (o Object) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (o *Object) UnmarshalText(b []byte) error { return parse("object", o[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (k Key) MarshalBinary() ([]byte, error) { return k[:], nil }

// UnmarshalBinary takes exactly len(Key) bytes.
func (k *Key) UnmarshalBinary(b []byte) error { return fill("key", k[:], b) }

// MarshalText returns the form String prints.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (k *Key) UnmarshalText(b []byte) error { return parse("key", k[:], string(b)) }

// MarshalBinary returns the id's bytes.
func (d Domain) MarshalBinary() ([]byte, error) { return d[:], nil }

// UnmarshalBinary takes exactly len(Domain) bytes.
func (d *Domain) UnmarshalBinary(b []byte) error { return fill("domain", d[:], b) }

// MarshalText returns the form String prints.
func (d Domain) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes the form String prints, in any case.
func (d *Domain) UnmarshalText(b []byte) error { return parse("domain", d[:], string(b)) }
