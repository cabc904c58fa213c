package apart

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/seal"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

type kit struct {
	*testing.T
	st   *dir.Store
	keys *seal.Keys
	d    id.Domain
}

func newKit(t *testing.T) kit {
	t.Helper()
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	k.FetchFrom(Source(t.Context(), st))
	d := id.NewDomain()
	if name, err := Make(t.Context(), st, k, d); err != nil || name != Name(d, 0) {
		t.Fatalf("%s, %v", name, err)
	}
	return kit{t, st, k, d}
}

func (k kit) seal(keys *seal.Keys, text string) []byte {
	k.Helper()
	b, err := keys.SealChunk(nil, k.d, id.Chunk{1}, []byte(text))
	if err != nil {
		k.Fatal(err)
	}
	return b
}

func (k kit) opens(keys *seal.Keys, sealed []byte) error {
	_, err := keys.OpenChunk(nil, k.d, id.Chunk{1}, sealed)
	return err
}

// again is what another process has: the same wrapped secrets, opened anew.
func (k kit) again(keys *seal.Keys) *seal.Keys {
	k.Helper()
	wrapped, err := keys.Wrap([32]byte{1}, id.Key{2}, nil)
	if err != nil {
		k.Fatal(err)
	}
	out, err := seal.Unwrap([32]byte{1}, keys.Vault(), id.Key{2}, nil, wrapped)
	if err != nil {
		k.Fatal(err)
	}
	out.FetchFrom(Source(k.Context(), k.st))
	return out
}

func (k kit) names() (out []string) {
	for e, err := range k.st.List(k.Context(), Prefix) {
		if err != nil {
			k.Fatal(err)
		}
		out = append(out, e.Name)
	}
	return out
}

// The whole life: sealed, read by another process, rotated twice, destroyed.
func TestLife(t *testing.T) {
	k := newKit(t)
	ctx := t.Context()
	first := k.seal(k.keys, "one")
	if err := k.opens(k.again(k.keys), first); err != nil {
		t.Fatal(err)
	}
	idKey, err := k.keys.IDKey(k.d)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := Add(ctx, k.st, k.keys, k.d); name != "" || err != nil {
		t.Fatalf("a key was added without a rotation: %q, %v", name, err)
	}
	young, err := k.keys.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.opens(young, first); err != nil { // and no key was added yet
		t.Fatal(err)
	}
	other := k.again(young)
	if name, err := Add(ctx, k.st, young, k.d); err != nil || name != Name(k.d, 1) {
		t.Fatalf("%q, %v", name, err)
	}
	if name, err := Add(ctx, k.st, other, k.d); err != nil || name != "" {
		t.Fatalf("a second key in the same generation: %q, %v", name, err)
	}
	second := k.seal(young, "two")
	now := k.again(young)
	if err := errors.Join(k.opens(now, first), k.opens(now, second), k.opens(other, second)); err != nil {
		t.Fatal(err)
	}
	if got, err := now.IDKey(k.d); err != nil || got != idKey {
		t.Errorf("chunks have other names after a rotation: %v", err)
	}
	k.keys.Refetch(k.d)
	if err := k.opens(k.keys, second); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("the keys from before the rotation open what is new: %v", err)
	}
	if err := k.opens(k.keys, first); err != nil {
		t.Errorf("the keys from before the rotation open nothing more: %v", err)
	}
	// What a key adds is no copy: without the first object it opens nothing old.
	kept := k.read(Name(k.d, 0))
	if err := k.st.Delete(ctx, Name(k.d, 0)); err != nil {
		t.Fatal(err)
	}
	if err := k.opens(k.again(young), first); !errors.Is(err, seal.ErrNoDomain) {
		t.Errorf("without its first object: %v", err)
	}
	k.put(Name(k.d, 0), kept)
	if n, err := Delete(ctx, k.st, young, k.d); err != nil || n != 2 || len(k.names()) != 0 {
		t.Fatalf("%d deleted, %v, left %v", n, err, k.names())
	}
	for what, keys := range map[string]*seal.Keys{"a new process": k.again(young), "the one that deleted": young} {
		if err := k.opens(keys, first); !errors.Is(err, seal.ErrNoDomain) || errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s opens what was shredded: %v", what, err)
		}
	}
	if n, err := Delete(ctx, k.st, young, k.d); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	k.put(Name(k.d, 0), kept) // the test can fail: with the object back, the chunk opens
	if err := k.opens(k.again(young), first); err != nil {
		t.Error(err)
	}
}

func (k kit) read(name string) []byte {
	k.Helper()
	b, err := store.ReadAll(k.Context(), k.st, name, seal.MaxApart)
	if err != nil {
		k.Fatal(err)
	}
	return b
}

func (k kit) put(name string, b []byte) {
	k.Helper()
	if err := k.st.PutNew(k.Context(), name, int64(len(b)), bytes.NewReader(b)); err != nil {
		k.Fatal(err)
	}
}

// No other object of the vault holds a secret of a domain apart: what passwords wrap,
// what a rotation stores and what a worker without that domain gets.
func TestSecretsAreNowhereElse(t *testing.T) {
	k := newKit(t)
	sealed := k.seal(k.keys, "one") // its keys are in memory now
	rotated, err := k.keys.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	for what, keys := range map[string]*seal.Keys{"now": k.keys, "rotated": rotated} {
		grant, err := keys.Grant(seal.PartAll)
		if err != nil {
			t.Fatal(err)
		}
		idKey, err := keys.IDKey(k.d)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(idKey[:])
		if strings.Contains(string(grant), k.d.String()) || bytes.Contains(grant, text) {
			t.Errorf("%s: all parts hold the domain", what)
		}
		got, err := seal.LoadGrant(grant)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.opens(got, sealed); !errors.Is(err, seal.ErrNoPart) {
			t.Errorf("%s: %v", what, err)
		}
	}
	grant, err := k.keys.Grant(seal.PartData|seal.PartIDs, k.d)
	if err != nil {
		t.Fatal(err)
	}
	worker, err := seal.LoadGrant(grant)
	if err == nil {
		err = k.opens(worker, sealed)
	}
	if err != nil {
		t.Errorf("a worker of the domain: %v", err)
	}
}

func TestDamage(t *testing.T) {
	k := newKit(t)
	ctx := t.Context()
	first := k.seal(k.keys, "one")
	young, err := k.keys.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Add(ctx, k.st, young, k.d); err != nil {
		t.Fatal(err)
	}
	second := k.seal(young, "two")
	for n, name := range []string{Name(k.d, 0), Name(k.d, 1)} {
		good := k.read(name)
		for what, bad := range map[string][]byte{
			"a flipped bit": append(append([]byte{}, good[:len(good)-1]...), good[len(good)-1]^1),
			"half":          good[:len(good)/2],
			"nothing":       {},
			"too much":      make([]byte, seal.MaxApart+1),
			"the other":     k.read(Name(k.d, 1-n)),
		} {
			if err := k.st.Delete(ctx, name); err != nil {
				t.Fatal(err)
			}
			k.put(name, bad)
			keys := k.again(young)
			one, two := k.opens(keys, first), k.opens(keys, second)
			if two == nil || n == 0 && one == nil || errors.Is(two, seal.ErrNoDomain) {
				t.Errorf("%s, %s: %v, %v", name, what, one, two)
			}
			if n == 1 && what != "too much" && one != nil {
				t.Errorf("%s, %s: what the other object opens is lost: %v", name, what, one)
			}
			if _, err := Add(ctx, k.st, keys, k.d); n == 1 && !errors.Is(err, seal.ErrDamaged) {
				t.Errorf("%s, %s: a key is added beside it: %v", name, what, err)
			}
		}
		if err := k.st.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
		k.put(name, good)
	}
	if err := k.opens(k.again(young), second); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	d := id.NewDomain()
	if got, ok := DomainOf(Name(d, 7)); !ok || got != d {
		t.Errorf("%s, %v", got, ok)
	}
	for _, name := range []string{"", "domains/", Folder(d), Name(d, 7) + "0", "domains/12/0000", "keys/" + d.String()} {
		if _, ok := DomainOf(name); ok {
			t.Errorf("%q names a domain", name)
		}
	}
	if err := store.CheckName(Name(d, 1000)); err != nil {
		t.Error(err)
	}
}

// Whatever lies there makes nothing worse than an error.
func FuzzSource(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add([]byte(`{"format":1}`), true)
	f.Add([]byte(`{"format":1,"data":{"key":[]}}`), true)
	st, err := dir.Create(filepath.Join(f.TempDir(), "vault"))
	if err != nil {
		f.Fatal(err)
	}
	k, _, err := seal.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		ctx, d := context.Background(), id.NewDomain()
		if sealed { // by who holds the keys, so that the inner form is read
			b, _ = k.SealMeta(nil, seal.TypeDomain, []byte(Name(d, 0)), b)
		}
		if err := st.PutNew(ctx, Name(d, 0), int64(len(b)), bytes.NewReader(b)); err != nil {
			t.Skip()
		}
		keys, _, _ := seal.New()
		if sealed {
			keys = k
		}
		keys.FetchFrom(Source(ctx, st))
		if _, err := keys.IDKey(d); err == nil {
			t.Error("made-up keys are taken")
		}
		_ = st.Delete(ctx, Name(d, 0))
	})
}
