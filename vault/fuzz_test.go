package vault

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/millrace-backup/millrace/vault/kdf"
)

// signedAnew gives text, with its last member replaced, a right signature, so
// that the fuzzer gets past the first door. Text that is no object comes back as
// it is.
func signedAnew(t testing.TB, v *Vault, kind string, text []byte) []byte {
	t.Helper()
	covered, err := allButLast(text)
	if err != nil {
		return text
	}
	signature, err := v.Keys.Sign(append([]byte(kind), covered...))
	if err != nil {
		t.Fatal(err)
	}
	return append(covered[:len(covered)-1], `,"signature":"`+base64.StdEncoding.EncodeToString(signature)+`"}`...)
}

func goldenOpen(f *testing.F) (*Vault, *memory) {
	st := goldenStore(f)
	v, err := Open(f.Context(), st, []byte(readGolden(f).Password))
	if err != nil {
		f.Fatal(err)
	}
	return v, st
}

func FuzzConfig(f *testing.F) {
	v, st := goldenOpen(f)
	f.Add(st.objects[ConfigName])
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"a":1,"signature":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, each := range [][]byte{text, signedAnew(t, v, configSigned, text)} {
			c, err := parseConfig(each)
			if err != nil {
				if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
					t.Fatalf("an error of no kind: %v", err)
				}
				continue
			}
			if err := c.check(); err != nil || c.ID != v.ID {
				t.Fatalf("taken: %+v, %v", c, err)
			}
			if _, ok := c.Domain(c.DefaultDomain); !ok {
				t.Fatal("no default domain")
			}
		}
	})
}

func FuzzKeyEnvelope(f *testing.F) {
	v, st := goldenOpen(f)
	keys := st.names(keyPrefix)
	for _, name := range keys {
		f.Add(st.objects[name])
	}
	f.Add([]byte(`{"format":1,"vault":"` + v.ID.String() + `","kdf":{"name":"argon2id","memory_kib":4294967295},"wrapped":"","signature":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, each := range [][]byte{text, signedAnew(t, v, keySigned, text)} {
			for _, name := range keys {
				e, err := parseEnvelope(name, each, v.Config)
				if err != nil {
					if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
						t.Fatalf("an error of no kind: %v", err)
					}
					continue
				}
				if e == nil {
					continue // of another vault
				}
				if k := e.KDF; k.Check() != nil || k.MemoryKiB > kdf.MaxMemoryKiB || k.Time > kdf.MaxTime || k.Threads > kdf.MaxThreads {
					t.Fatalf("this much work is accepted: %+v", k)
				}
				if KeyName(e.ID) != name || checkLabel(e.Label) != nil {
					t.Fatalf("taken: %+v", e.key())
				}
			}
		}
	})
}
