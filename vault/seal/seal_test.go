package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/frame"
)

func newKeys(t testing.TB) (*Keys, id.Domain) {
	t.Helper()
	k, d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return k, d
}

func ids(t testing.TB, k *Keys, d id.Domain) *chunk.IDs {
	t.Helper()
	key, err := k.IDKey(d)
	if err != nil {
		t.Fatal(err)
	}
	return chunk.NewIDs(key)
}

// The associated data is on disk in effect: every byte of it decides whether
// old ciphertexts open.
func TestAssociatedDataIsFixed(t *testing.T) {
	got := appendAAD(nil, TypeTablePage, id.Vault{0xaa, 31: 0xab}, id.Domain{0xbb, 15: 0xbc}, 0x01020304, []byte("name"))
	want := "6d696c6c72616365" + "0001" + "03" +
		"aa000000000000000000000000000000000000000000000000000000000000ab" +
		"bb0000000000000000000000000000bc" + "01020304" + "6e616d65"
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
	if len(got) != aadFixed+4 {
		t.Errorf("%d bytes before the name, not %d", len(got)-4, aadFixed)
	}
	types := []ObjectType{TypeChunk, TypePackFooter, TypeTablePage, TypeTableIndex, TypeSegment, TypeKey}
	for i, each := range types {
		if int(each) != i+1 {
			t.Errorf("object type %d has become %d", i+1, each)
		}
	}
}

func TestSealedFormIsTinks(t *testing.T) {
	k, d := newKeys(t)
	sealed, err := k.SealChunk([]byte("dst"), d, id.Chunk{1}, []byte("frame"))
	if err != nil {
		t.Fatal(err)
	}
	sealed = bytes.TrimPrefix(sealed, []byte("dst"))
	if len(sealed) != len("frame")+Overhead {
		t.Errorf("5 bytes became %d, overhead should be %d", len(sealed), Overhead)
	}
	keyID, err := k.DataKeyID(d)
	if want := fmt.Sprintf("01%08x", keyID); err != nil || hex.EncodeToString(sealed[:5]) != want {
		t.Errorf("prefix %x, want %s (%v)", sealed[:5], want, err)
	}
	plain, err := k.OpenChunk([]byte("dst"), d, id.Chunk{1}, sealed)
	if err != nil || string(plain) != "dstframe" {
		t.Errorf("%q, %v", plain, err)
	}
}

// Everything that makes a sealed chunk another chunk must keep it shut.
func TestChunksOpenOnlyInTheirPlace(t *testing.T) {
	k, d := newKeys(t)
	other, otherDomain := newKeys(t)
	a, b := id.Chunk{1}, id.Chunk{2}
	sealed, err := k.SealChunk(nil, d, a, []byte("frame of a"))
	if err != nil {
		t.Fatal(err)
	}
	// The same keys, seen as those of another domain and of another vault.
	moved := &Keys{&held{vault: k.h.vault, domains: map[id.Domain]*domainKeys{otherDomain: k.h.domains[d]}}}
	renamed := &Keys{&held{vault: other.h.vault, domains: k.h.domains}}
	footer := &Keys{&held{vault: k.h.vault, meta: k.h.domains[d].data}}
	for what, open := range map[string]func() ([]byte, error){
		"another chunk":             func() ([]byte, error) { return k.OpenChunk(nil, d, b, sealed) },
		"another vault":             func() ([]byte, error) { return other.OpenChunk(nil, otherDomain, a, sealed) },
		"another vault, same keys":  func() ([]byte, error) { return renamed.OpenChunk(nil, d, a, sealed) },
		"another domain, same keys": func() ([]byte, error) { return moved.OpenChunk(nil, otherDomain, a, sealed) },
		"another type, same keys":   func() ([]byte, error) { return footer.OpenMeta(nil, TypePackFooter, a[:], sealed) },
		"its bytes but the last":    func() ([]byte, error) { return k.OpenChunk(nil, d, a, sealed[:len(sealed)-1]) },
	} {
		if got, err := open(); !errors.Is(err, ErrDamaged) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for bit := range len(sealed) * 8 {
		flipped := bytes.Clone(sealed)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := k.OpenChunk(nil, d, a, flipped); !errors.Is(err, ErrDamaged) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
	if got, err := k.OpenChunk(nil, d, a, sealed); err != nil || string(got) != "frame of a" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMetaOpensOnlyInItsRole(t *testing.T) {
	k, d := newKeys(t)
	types := []ObjectType{TypePackFooter, TypeTablePage, TypeTableIndex, TypeSegment}
	for _, sealedAs := range types {
		sealed, err := k.SealMeta(nil, sealedAs, []byte("name"), []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		for _, openedAs := range types {
			for _, name := range []string{"name", "nam", "name\x00", ""} {
				got, err := k.OpenMeta(nil, openedAs, []byte(name), sealed)
				if right := openedAs == sealedAs && name == "name"; right != (err == nil) {
					t.Errorf("type %d opened as %d %q: %q, %v", sealedAs, openedAs, name, got, err)
				}
			}
		}
		if _, err := k.OpenChunk(nil, d, id.Chunk{}, sealed); !errors.Is(err, ErrDamaged) {
			t.Errorf("type %d opened as a chunk: %v", sealedAs, err)
		}
	}
	for _, t8 := range []ObjectType{TypeChunk, TypeKey} {
		if _, err := k.SealMeta(nil, t8, nil, nil); !errors.Is(err, ErrNoPart) {
			t.Errorf("type %d was sealed with the meta keyset: %v", t8, err)
		}
	}
}

func TestDecodeChecksTheID(t *testing.T) {
	k, d := newKeys(t)
	x := ids(t, k, d)
	codec, err := frame.New("auto")
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("guest data "), 6000)
	c := x.ID(content)
	sealed, err := k.SealChunk(nil, d, c, codec.Encode(nil, content))
	if err != nil {
		t.Fatal(err)
	}
	got, err := k.Decode(d, c, sealed, []byte("dst"), x)
	if err != nil || !bytes.Equal(got, append([]byte("dst"), content...)) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// Wrong bytes that were sealed in good faith under c: only the id tells.
	lie, err := k.SealChunk(nil, d, c, codec.Encode(nil, content[1:]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Decode(d, c, lie, nil, x); !errors.Is(err, ErrDamaged) {
		t.Errorf("bytes of another id were returned: %v", err)
	}
	notFrame, err := k.SealChunk(nil, d, c, []byte{77, 5, 1, 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Decode(d, c, notFrame, nil, x); !errors.Is(err, ErrNewer) {
		t.Errorf("a codec of the future gives %v", err)
	}
}

// Tarsnap once lost its nonces to a refactoring. 192 bits may not meet again.
func TestNoncesAreUnique(t *testing.T) {
	k, d := newKeys(t)
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	seen := make(map[[24]byte]bool, n)
	var lock sync.Mutex
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range n / 4 {
				sealed, err := k.SealChunk(nil, d, id.Chunk{}, []byte{1})
				if err != nil {
					t.Error(err)
					return
				}
				nonce := [24]byte(sealed[tinkPrefix:])
				lock.Lock()
				if seen[nonce] {
					t.Errorf("nonce %x came twice", nonce)
				}
				seen[nonce] = true
				lock.Unlock()
			}
		})
	}
	wait.Wait()
	if len(seen) != n {
		t.Errorf("%d nonces of %d seals", len(seen), n)
	}
}

// A rotated keyset seals with the new key and still opens what the old one sealed;
// one that lost the old key says which it was.
func TestRotatedKeysets(t *testing.T) {
	k, d := newKeys(t)
	old, err := k.SealChunk(nil, d, id.Chunk{1}, []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	m := keyset.NewManagerFromHandle(k.h.domains[d].data.handle)
	second, err := m.Add(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetPrimary(second); err != nil {
		t.Fatal(err)
	}
	h, err := m.Handle()
	if err != nil {
		t.Fatal(err)
	}
	rotatedBox, err := boxOf(h)
	if err != nil {
		t.Fatal(err)
	}
	first := k.h.domains[d].data.primary
	was := k.h.domains[d]
	k.h.domains[d] = &domainKeys{idKey: was.idKey, cutKey: was.cutKey, data: rotatedBox}

	grant, err := k.Grant(PartAll)
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := LoadGrant(grant)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rotated.DataKeyID(d); err != nil || got != second || got == first {
		t.Errorf("primary key is %08x, not %08x: %v", got, second, err)
	}
	if got, err := rotated.OpenChunk(nil, d, id.Chunk{1}, old); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
	young, err := rotated.SealChunk(nil, d, id.Chunk{1}, []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	k.h.domains[d] = was
	if _, err := k.OpenChunk(nil, d, id.Chunk{1}, young); !errors.Is(err, ErrDamaged) {
		t.Errorf("a key this process never had: %v", err)
	}
}

func TestSealAllocatesLittle(t *testing.T) {
	k, d := newKeys(t)
	plain := make([]byte, 64<<10)
	room := make([]byte, 0, len(plain)+Overhead)
	if n := testing.AllocsPerRun(50, func() {
		if _, err := k.SealChunk(room, d, id.Chunk{1}, plain); err != nil {
			t.Fatal(err)
		}
	}); n > 12 { // 11 are Tink's
		t.Errorf("%v allocations", n)
	}
}

func FuzzOpen(f *testing.F) {
	k, d := newKeys(f)
	x := ids(f, k, d)
	good, err := k.SealChunk(nil, d, id.Chunk{1}, []byte{0, 1, 7})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:Overhead])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := k.Decode(d, id.Chunk{2}, sealed, nil, x); !errors.Is(err, ErrDamaged) {
			t.Fatalf("foreign bytes give %v", err)
		}
		if _, err := k.OpenMeta(nil, TypeSegment, nil, sealed); !errors.Is(err, ErrDamaged) {
			t.Fatalf("foreign bytes give %v", err)
		}
	})
}

func benchKeys(b *testing.B) (k *Keys, d id.Domain, content []byte, x *chunk.IDs) {
	k, d = newKeys(b)
	content = make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	return k, d, content, ids(b, k, d)
}

func BenchmarkSealChunk(b *testing.B) {
	k, d, content, _ := benchKeys(b)
	room := make([]byte, 0, len(content)+Overhead)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.SealChunk(room, d, id.Chunk{}, content); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	k, d, content, x := benchKeys(b)
	codec, _ := frame.New("none")
	c := x.ID(content)
	sealed, err := k.SealChunk(nil, d, c, codec.Encode(nil, content))
	if err != nil {
		b.Fatal(err)
	}
	room := make([]byte, 0, len(content))
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Decode(d, c, sealed, room, x); err != nil {
			b.Fatal(err)
		}
	}
}
