package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/id"
)

// Each part opens exactly its doors, with every combination of parts.
func TestGrantsHoldOnlyTheirParts(t *testing.T) {
	all, d := newKeys(t)
	for parts := range PartAll + 1 {
		grant, err := all.Grant(parts)
		if err != nil {
			t.Fatal(err)
		}
		k, err := LoadGrant(grant)
		if err != nil {
			t.Fatal(err)
		}
		if k.Vault() != all.Vault() {
			t.Errorf("parts %05b: vault %s", parts, k.Vault())
		}
		for part, use := range map[Part]func() error{
			PartMeta: func() error { _, err := k.SealMeta(nil, TypeSegment, nil, nil); return err },
			PartData: func() error { _, err := k.SealChunk(nil, d, id.Chunk{}, nil); return err },
			PartIDs:  func() error { _, err := k.IDKey(d); return err },
			PartCut:  func() error { _, err := k.CutKey(d); return err },
			PartSign: func() error { _, err := k.Sign([]byte("x")); return err },
		} {
			err := use()
			if parts&part != 0 && err != nil {
				t.Errorf("parts %05b: part %05b: %v", parts, part, err)
			}
			if parts&part == 0 && !errors.Is(err, ErrNoPart) {
				t.Errorf("parts %05b: part %05b is there: %v", parts, part, err)
			}
			if k.Holds(part, d) != (parts&part != 0) {
				t.Errorf("parts %05b: Holds(%05b) is %v", parts, part, k.Holds(part, d))
			}
		}
		if (k.Public() != nil) != (parts&PartSign != 0) {
			t.Errorf("parts %05b: public key %x", parts, k.Public())
		}
		// What is not held cannot be handed on, what is can.
		if _, err := k.Grant(PartAll); (parts == PartAll) != (err == nil) || err != nil && !errors.Is(err, ErrNoPart) {
			t.Errorf("parts %05b: granting all gives %v", parts, err)
		}
		if again, err := k.Grant(parts); parts != 0 && (err != nil || !sameJSON(again, grant)) {
			t.Errorf("parts %05b: granted again: %v", parts, err)
		}
	}
	if _, err := all.Grant(PartAll << 1); !errors.Is(err, ErrNoPart) {
		t.Errorf("a part of the future: %v", err)
	}
}

// sameJSON compares without white space, which Tink varies on purpose.
func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func TestGrantOfOneDomain(t *testing.T) {
	k, d := newKeys(t)
	_, e := newKeys(t)
	k.h.domains[e] = k.h.domains[d]
	grant, err := k.Grant(PartData|PartIDs, e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadGrant(grant)
	if err != nil {
		t.Fatal(err)
	}
	if names := got.Domains(); len(names) != 1 || names[0] != e {
		t.Errorf("domains %v", names)
	}
	if _, err := got.IDKey(d); !errors.Is(err, ErrNoPart) {
		t.Errorf("the other domain's id key: %v", err)
	}
	if _, err := k.Grant(PartCut, id.Domain{9}); !errors.Is(err, ErrNoPart) {
		t.Errorf("a domain that is not: %v", err)
	}
}

func TestWrapNeedsTheSameEverything(t *testing.T) {
	k, d := newKeys(t)
	other, _ := newKeys(t)
	kek, name, bound := [32]byte{1}, id.Key{2}, []byte("clear part")
	wrapped, err := k.Wrap(kek, name, bound)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Unwrap(kek, k.Vault(), name, bound, wrapped)
	if err != nil || !got.Holds(PartAll, d) || !bytes.Equal(got.Public(), k.Public()) {
		t.Fatalf("%v", err)
	}
	for what, try := range map[string]func() (*Keys, error){
		"another key":     func() (*Keys, error) { return Unwrap([32]byte{2}, k.Vault(), name, bound, wrapped) },
		"another vault":   func() (*Keys, error) { return Unwrap(kek, other.Vault(), name, bound, wrapped) },
		"another name":    func() (*Keys, error) { return Unwrap(kek, k.Vault(), id.Key{3}, bound, wrapped) },
		"another binding": func() (*Keys, error) { return Unwrap(kek, k.Vault(), name, bound[1:], wrapped) },
		"a byte less":     func() (*Keys, error) { return Unwrap(kek, k.Vault(), name, bound, wrapped[1:]) },
		"nothing":         func() (*Keys, error) { return Unwrap(kek, k.Vault(), name, bound, nil) },
	} {
		if got, err := try(); got != nil || !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	part, err := LoadGrant(must(k.Grant(PartMeta)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Wrap(kek, name, bound); !errors.Is(err, ErrNoPart) {
		t.Errorf("wrapping a part: %v", err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestForeignGrants(t *testing.T) {
	k, _ := newKeys(t)
	other, _ := newKeys(t)
	good := string(must(k.Grant(PartAll)))
	for what, each := range map[string]struct {
		grant string
		want  error
	}{
		"nothing":              {"", ErrDamaged},
		"null":                 {"null", ErrDamaged},
		"another form":         {`{"format":1,"vault":7}`, ErrDamaged},
		"format of the future": {strings.Replace(good, `"format":1`, `"format":2`, 1), ErrNewer},
		"format zero":          {strings.Replace(good, `"format":1`, `"format":0`, 1), ErrDamaged},
		"another vault's":      {strings.Replace(good, k.Vault().String(), other.Vault().String(), 1), ErrDamaged},
		"short id key":         {strings.Replace(good, `"id_key":"`, `"id_key":"AAAA","x":"`, 1), ErrDamaged},
		"no keyset":            {strings.Replace(good, `"meta":{`, `"meta":{"x":1},"y":{`, 1), ErrDamaged},
		"keyset of nothing":    {strings.Replace(good, `"meta":{`, `"meta":{},"y":{`, 1), ErrDamaged},
		"key without bytes": {`{"format":1,"vault":"` + k.Vault().String() + `","meta":{"primaryKeyId":7,"key":[` +
			`{"keyData":{},"status":"ENABLED","keyId":7,"outputPrefixType":"TINK"}]}}`, ErrDamaged},
		"key without an id": {strings.ReplaceAll(good, `"TINK"`, `"RAW"`), ErrDamaged},
		"keys all disabled": {strings.ReplaceAll(good, `"ENABLED"`, `"DISABLED"`), ErrDamaged},
		"key of a MAC":      {strings.ReplaceAll(good, `XAesGcmKey`, `HmacKey`), ErrDamaged},
		"too long":          {good + strings.Repeat(" ", maxGrant), ErrDamaged},
	} {
		if got, err := LoadGrant([]byte(each.grant)); got != nil || !errors.Is(err, each.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzLoadGrant(f *testing.F) {
	k, _ := newKeys(f)
	f.Add(must(k.Grant(PartAll)))
	f.Add(must(k.Grant(PartIDs)))
	f.Add([]byte(`{"format":1,"vault":"","meta":{"primaryKeyId":1,"key":[{}]}}`))
	f.Fuzz(func(t *testing.T, grant []byte) {
		k, err := LoadGrant(grant)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, d := range k.Domains() {
			_, _ = k.SealChunk(nil, d, id.Chunk{}, nil)
		}
		_, _ = k.SealMeta(nil, TypeSegment, nil, nil)
	})
}
