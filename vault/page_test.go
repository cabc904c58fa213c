package vault_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
)

// This file is a second reader of vaults, written from docs/format and using
// nothing of the packages it reads after, Tink included. It opens the golden
// vault, and what it sees on the way are the worked examples of the pages: so
// the pages, the code and the bytes agree, or this test fails.

// xaesOpen is XAES-256-GCM (c2sp.org/XAES-256-GCM) of nonce 24 ‖ ciphertext ‖ tag 16.
func xaesOpen(t *testing.T, key, sealed, associated []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	k1 := make([]byte, 16)
	block.Encrypt(k1, k1)
	carry := k1[0] >> 7
	for i := range 15 {
		k1[i] = k1[i]<<1 | k1[i+1]>>7
	}
	k1[15] = k1[15]<<1 ^ carry*0x87
	var derived []byte
	for n := range 2 {
		m := append([]byte{0, byte(n + 1), 'X', 0}, sealed[:12]...)
		for i := range m {
			m[i] ^= k1[i]
		}
		block.Encrypt(m, m)
		derived = append(derived, m...)
	}
	if block, err = aes.NewCipher(derived); err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, sealed[12:24], sealed[24:], associated)
	if err != nil {
		t.Fatalf("does not open: %v", err)
	}
	return plain
}

func associatedData(kind byte, vault, scope []byte, tinkKey uint32, name []byte) []byte {
	b := append([]byte("millrace\x00\x01"), kind)
	b = append(append(b, vault...), scope...)
	return append(binary.BigEndian.AppendUint32(b, tinkKey), name...)
}

type tinkKeyset struct {
	PrimaryKeyID uint32
	Key          []struct {
		KeyData struct {
			TypeURL string
			Value   []byte
		}
		KeyID uint32
	}
}

// tinkOpen opens a Tink ciphertext of a keyset of XAES-256-GCM keys.
func (k tinkKeyset) open(t *testing.T, sealed []byte, associated func(tinkKey uint32) []byte) []byte {
	t.Helper()
	tinkKey := binary.BigEndian.Uint32(sealed[1:])
	for _, key := range k.Key {
		if key.KeyID == tinkKey && sealed[0] == 1 && strings.HasSuffix(key.KeyData.TypeURL, ".XAesGcmKey") {
			at := bytes.Index(key.KeyData.Value, []byte{0x1a, 0x20}) // field 3, 32 bytes
			return xaesOpen(t, key.KeyData.Value[at+2:at+34], sealed[5:], associated(tinkKey))
		}
	}
	t.Fatalf("no key %08x", tinkKey)
	return nil
}

func allButLast(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes()[:bytes.LastIndexByte(b.Bytes(), ',')], '}')
}

func unframe(t *testing.T, b []byte) []byte {
	t.Helper()
	n, at := binary.Uvarint(b[1:])
	out, payload := make([]byte, n), b[1+at:]
	var err error
	switch b[0] {
	case 0:
		copy(out, payload)
	case 1:
		_, err = lz4.UncompressBlock(payload, out)
	case 2:
		out, err = s2.Decode(nil, payload)
	case 3:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(nil); err == nil {
			out, err = d.DecodeAll(payload, nil)
		}
	}
	if err != nil || uint64(len(out)) != n {
		t.Fatalf("frame %x: %v", b, err)
	}
	return out
}

// page collects worked examples: lines under a name.
type page map[string]*strings.Builder

func (p page) add(name, format string, args ...any) {
	if p[name] == nil {
		p[name] = &strings.Builder{}
	}
	fmt.Fprintf(p[name], format+"\n", args...)
}

type goldenFile struct {
	Password, Recovery, Pack string
	Chunks                   []struct{ Codec, Chunk, Content, Frame string }
}

type configFile struct {
	ID            string
	SigningKey    []byte `json:"signing_key"`
	DefaultDomain string `json:"default_domain"`
	Signature     []byte
}

type keyFile struct {
	Kind, ID string
	KDF      struct {
		Salt      []byte
		Time      uint32
		MemoryKiB uint32 `json:"memory_kib"`
		Threads   uint8
	}
	Wrapped, Signature []byte
}

type secretsFile struct {
	Vault      string
	SigningKey []byte `json:"signing_key"`
	Meta       tinkKeyset
	Domains    []struct {
		ID     string
		IDKey  []byte `json:"id_key"`
		CutKey []byte `json:"cut_key"`
		Data   tinkKeyset
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fromJSON[T any](t *testing.T, text []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return v
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verify(t *testing.T, c configFile, kind string, covered, signature []byte) {
	t.Helper()
	if !ed25519.Verify(c.SigningKey, append([]byte(kind), covered...), signature) {
		t.Errorf("signature of %q does not verify", kind)
	}
}

// openKeys derives both keys of the golden vault and returns what they wrap.
func openKeys(t *testing.T, p page, c configFile, g goldenFile) (s secretsFile) {
	t.Helper()
	names, err := filepath.Glob("testdata/vault/keys/*")
	if err != nil || len(names) != 2 {
		t.Fatalf("%v: %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		k := fromJSON[keyFile](t, text)
		covered := allButLast(t, text)
		verify(t, c, "millrace vault key\n", covered, k.Signature)
		bound := allButLast(t, covered)
		var kek []byte
		secret := g.Password
		if k.Kind == "password" {
			kek = argon2.IDKey([]byte(secret), k.KDF.Salt, k.KDF.Time, k.KDF.MemoryKiB, k.KDF.Threads, 32)
		} else {
			secret = g.Recovery
			digits := strings.ReplaceAll(strings.TrimPrefix(secret, "MRK1"), "-", "")
			all, err := base32.StdEncoding.DecodeString(digits)
			if err != nil || len(all) != 35 {
				t.Fatal(digits, err)
			}
			sum := sha256.Sum256(append([]byte("millrace recovery key\x00"), all[:32]...))
			if !bytes.Equal(sum[:3], all[32:]) {
				t.Errorf("checksum of the recovery key: %x, %x", sum[:3], all[32:])
			}
			if kek, err = hkdf.Key(sha256.New, all[:32], k.KDF.Salt, "millrace recovery key wraps vault secrets", 32); err != nil {
				t.Fatal(err)
			}
		}
		associated := associatedData(6, unhex(t, c.ID), unhex(t, k.ID), 0, bound)
		plain := xaesOpen(t, kek, k.Wrapped, associated)
		s = fromJSON[secretsFile](t, plain)
		p.add("keys", "%s key %s", k.Kind, k.ID)
		p.add("keys", "  secret         %s", secret)
		p.add("keys", "  wrapping key   %x", kek)
		p.add("keys", "  bound to       %s", bound)
		p.add("keys", "  wrapped        %d bytes, SHA-256 %x", len(k.Wrapped), sha256.Sum256(k.Wrapped))
		p.add("keys", "  secrets        %d bytes, SHA-256 %x", len(plain), sha256.Sum256(plain))
	}
	public := ed25519.NewKeyFromSeed(s.SigningKey).Public().(ed25519.PublicKey)
	if !public.Equal(ed25519.PublicKey(c.SigningKey)) || s.Vault != c.ID {
		t.Error("the wrapped signing key is not the vault's")
	}
	p.add("keys", "signing key seed %x", s.SigningKey)
	p.add("keys", "meta key %08x    %x", s.Meta.PrimaryKeyID, s.Meta.Key[0].KeyData.Value)
	p.add("keys", "domain %s", s.Domains[0].ID)
	p.add("keys", "  id key         %x", s.Domains[0].IDKey)
	p.add("keys", "  cut key        %x", s.Domains[0].CutKey)
	p.add("keys", "  data key %08x %x", s.Domains[0].Data.PrimaryKeyID, s.Domains[0].Data.Key[0].KeyData.Value)
	return s
}

// openPack reads the golden pack by the page and adds its example.
func openPack(t *testing.T, p page, c configFile, s secretsFile, g goldenFile) {
	t.Helper()
	b := read(t, "vault/"+g.Pack)
	if name := fmt.Sprintf("%x", sha256.Sum256(b)); !strings.HasSuffix(g.Pack, "/"+name) {
		t.Errorf("the pack is named %s, its hash is %s", g.Pack, name)
	}
	header, trailer := b[:92], b[len(b)-16:]
	n := int(binary.BigEndian.Uint32(trailer))
	end := len(b) - 16 - n
	sealed := b[end : len(b)-16]
	if sum := crc32.Checksum(sealed, crc32.MakeTable(crc32.Castagnoli)); sum != binary.BigEndian.Uint32(trailer[4:]) || string(trailer[8:]) != "MRPACKED" {
		t.Errorf("trailer %x, checksum %08x", trailer, sum)
	}
	vault := unhex(t, c.ID)
	if string(header[:6]) != "MRPACK" || !bytes.Equal(header[8:40], vault) || !bytes.Equal(header[40:56], unhex(t, s.Domains[0].ID)) {
		t.Errorf("header %x", header)
	}
	footerName := binary.BigEndian.AppendUint32(bytes.Clone(header), uint32(end))
	footer := s.Meta.open(t, sealed, func(k uint32) []byte { return associatedData(2, vault, make([]byte, 16), k, footerName) })
	p.add("pack", "header  %d bytes\n%s", len(header), strings.TrimRight(hex.Dump(header), "\n"))
	p.add("pack", "footer, opened  %d bytes, sealed %d bytes at offset %d\n%s", len(footer), n, end, strings.TrimRight(hex.Dump(footer), "\n"))
	p.add("pack", "trailer  %d bytes\n%s", len(trailer), strings.TrimRight(hex.Dump(trailer), "\n"))
	disks := int(binary.BigEndian.Uint16(footer))
	rest := footer[2+32*disks:]
	count := int(binary.BigEndian.Uint32(rest))
	if count != len(g.Chunks) {
		t.Fatalf("%d chunks", count)
	}
	for i := range count {
		e := rest[4+54*i:][:54]
		at, stored, raw := binary.BigEndian.Uint32(e[42:]), binary.BigEndian.Uint32(e[46:]), binary.BigEndian.Uint32(e[50:])
		sealed := b[at : at+stored]
		frame := s.Domains[0].Data.open(t, sealed, func(k uint32) []byte { return associatedData(1, vault, unhex(t, s.Domains[0].ID), k, e[:32]) })
		content := unframe(t, frame)
		if string(content) != g.Chunks[i].Content || len(content) != int(raw) {
			t.Errorf("chunk %d: %q", i, content)
		}
		h, err := blake3.NewKeyed(s.Domains[0].IDKey)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = h.Write(content)
		if !bytes.Equal(h.Sum(nil), e[:32]) {
			t.Errorf("chunk %d: its name is not its keyed hash", i)
		}
		p.add("chunk-frame", "%-5s content  %q", g.Chunks[i].Codec, content)
		p.add("chunk-frame", "      chunk id %x", e[:32])
		p.add("chunk-frame", "      frame    %x", frame)
		p.add("chunk-frame", "      sealed   %x", sealed)
	}
}

// openParts reads the golden pack of format 2 by the page and adds its example.
func openParts(t *testing.T, p page, c configFile, s secretsFile) {
	t.Helper()
	b := read(t, "parts.pack")
	n := int(binary.BigEndian.Uint32(b[len(b)-16:]))
	end := len(b) - 16 - n
	name := binary.BigEndian.AppendUint32(bytes.Clone(b[:92]), uint32(end))
	footer := s.Meta.open(t, b[end:len(b)-16], func(k uint32) []byte { return associatedData(2, unhex(t, c.ID), make([]byte, 16), k, name) })
	disks := int(binary.BigEndian.Uint16(footer))
	entries := footer[2+32*disks:]
	parts := 4 + 54*int(binary.BigEndian.Uint32(entries))
	rest := entries[parts+4:]
	for range binary.BigEndian.Uint32(entries[parts:]) {
		e := entries[4+54*binary.BigEndian.Uint32(rest):]
		count, sum := int(binary.BigEndian.Uint16(rest[4:])), uint32(0)
		if !bytes.Equal(rest[6:14], e[34:42]) {
			t.Errorf("the first part is at %x, the entry says %x", rest[6:14], e[34:42])
		}
		for i := range count {
			sum += binary.BigEndian.Uint32(rest[6+12*i+8:])
		}
		if raw := binary.BigEndian.Uint32(e[50:]); sum != raw {
			t.Errorf("parts of %d bytes, of a chunk of %d", sum, raw)
		}
		rest = rest[6+12*count:]
	}
	if b[7] != 2 || len(rest) != 0 {
		t.Errorf("format %d, %d bytes left", b[7], len(rest))
	}
	p.add("pack", "\nof vault/testdata/parts.pack, format 2: the places of chunks in parts, behind the entries\n%s",
		strings.TrimRight(hex.Dump(entries[parts:]), "\n"))
}

func TestPagesAgreeWithTheBytes(t *testing.T) {
	p := page{}
	g := fromJSON[goldenFile](t, read(t, "vault.json"))
	text := read(t, "vault/vault")
	c := fromJSON[configFile](t, text)
	if id := sha256.Sum256(c.SigningKey); hex.EncodeToString(id[:]) != c.ID {
		t.Error("the vault's id is not the hash of its key")
	}
	covered := allButLast(t, text)
	verify(t, c, "millrace vault config\n", covered, c.Signature)
	p.add("vault", "%s", bytes.TrimSpace(text))
	p.add("vault", "\nsigned are \"millrace vault config\\n\" and these %d bytes:\n\n%s", len(covered), covered)
	s := openKeys(t, p, c, g)
	openPack(t, p, c, s, g)
	openParts(t, p, c, s)
	for name, example := range p {
		checkExample(t, name, "```\n"+example.String()+"```\n")
	}
}

var exampleMark = regexp.MustCompile(`(?s)(<!-- example: go test \./vault -update -->\n).*?(<!-- end of example -->)`)

func checkExample(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("..", "docs", "format", name+".md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(exampleMark.FindAll(text, -1)) != 1 {
		t.Fatalf("%s: no place for the example", path)
	}
	got := exampleMark.ReplaceAllFunc(text, func(old []byte) []byte {
		parts := exampleMark.FindSubmatch(old)
		return bytes.Join([][]byte{parts[1], []byte(want), parts[2]}, nil)
	})
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(got, text) {
		t.Errorf("%s: its example is not what the golden vault says; go test ./vault -update", path)
	}
}
