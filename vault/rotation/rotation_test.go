package rotation_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/rotation"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newVault(t *testing.T) *vault.Vault {
	t.Helper()
	st, err := dir.Create(t.TempDir())
	must(t, err)
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: kdf, Now: noon})
	must(t, err)
	return v
}

// open seals with one's keys and opens with the other's.
func open(t *testing.T, from, to *vault.Vault) error {
	t.Helper()
	d := from.Config.DefaultDomain
	b, err := from.Keys.SealChunk(nil, d, id.Chunk{1}, []byte("frame"))
	must(t, err)
	got, err := to.Keys.OpenChunk(nil, d, id.Chunk{1}, b)
	if err == nil && !bytes.Equal(got, []byte("frame")) {
		t.Fatal("other bytes")
	}
	return err
}

// Two who rotate at once have the same keys in the end, whoever is first, and also if
// the first one died.
func TestTwoAtOnce(t *testing.T) {
	v := newVault(t)
	a, err := rotation.Begin(t.Context(), v)
	must(t, err)
	b, err := rotation.Begin(t.Context(), v)
	must(t, err)
	must(t, errors.Join(open(t, a, b), open(t, b, a), open(t, v, a)))
	for _, each := range []*vault.Vault{a, b} {
		p, _, err := each.PrepareRecovery(noon())
		must(t, err)
		must(t, each.AddKey(t.Context(), p))
		must(t, rotation.End(t.Context(), each))
	}
	if _, err := rotation.Begin(t.Context(), v); !errors.Is(err, vault.ErrRotated) {
		t.Errorf("old keys are rotated a second time: %v", err)
	}
	for e, err := range v.Store.List(t.Context(), rotation.Prefix) {
		t.Errorf("%s is left, %v", e.Name, err)
	}
	c, err := rotation.Begin(t.Context(), a)
	must(t, err)
	if c.Keys.Generation() != 2 {
		t.Errorf("generation %d", c.Keys.Generation())
	}
	must(t, errors.Join(open(t, b, c), open(t, v, c)))
}

// What is in the object is opened with the keys from before alone, and damage is said.
func TestDamagedRotation(t *testing.T) {
	v := newVault(t)
	_, err := rotation.Begin(t.Context(), v)
	must(t, err)
	const name = rotation.Prefix + "0001"
	text, err := store.ReadAll(t.Context(), v.Store, name, 1<<20)
	must(t, err)
	for at := 0; at < len(text); at += 1 + len(text)/40 {
		bad := bytes.Clone(text)
		bad[at] ^= 4
		must(t, v.Store.Delete(t.Context(), name))
		must(t, v.Store.PutNew(t.Context(), name, int64(len(bad)), bytes.NewReader(bad)))
		if _, err := rotation.Begin(t.Context(), v); !errors.Is(err, vault.ErrDamaged) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
}

// What opens and is not what a rotation of this vault stores is not taken for it: another
// vault's keys, those of another generation, a part of them. Nothing of it is deleted but
// by who asks for that.
func TestForeignRotation(t *testing.T) {
	v, other := newVault(t), newVault(t)
	next, err := v.Rotated()
	must(t, err)
	after, err := next.Rotated()
	must(t, err)
	theirs, err := other.Rotated()
	must(t, err)
	alike := *v // as if the two had the same domains
	alike.Config.Domains = other.Config.Domains
	const name = rotation.Prefix + "0001"
	for what, c := range map[string]struct {
		v     *vault.Vault
		keys  *vault.Keys
		parts vault.Part
	}{
		"another vault's":           {&alike, theirs.Keys, vault.PartAll},
		"of a later generation":     {v, after.Keys, vault.PartAll},
		"the same as now":           {v, v.Keys, vault.PartAll},
		"without those of a domain": {v, next.Keys, vault.PartMeta | vault.PartSign},
	} {
		grant, err := c.keys.Grant(c.parts)
		must(t, err)
		sealed, err := v.Keys.SealMeta(nil, vault.TypeRotation, []byte(name), grant)
		must(t, err)
		must(t, v.Store.PutNew(t.Context(), name, int64(len(sealed)), bytes.NewReader(sealed)))
		if _, err := rotation.Begin(t.Context(), c.v); !errors.Is(err, rotation.ErrUnreadable) || !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		must(t, rotation.Discard(t.Context(), c.v))
		if _, err := store.Stat(t.Context(), v.Store, name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: not discarded: %v", what, err)
		}
	}
	// What can be read is gone on with, not discarded.
	a, err := rotation.Begin(t.Context(), v)
	must(t, err)
	must(t, rotation.Discard(t.Context(), v))
	b, err := rotation.Begin(t.Context(), v)
	must(t, err)
	must(t, open(t, a, b))
}

// A damaged key does not keep others from being rotated.
func TestRotationBesideADamagedKey(t *testing.T) {
	v := newVault(t)
	for k, err := range vault.ReadKeys(t.Context(), v.Store, v.Config) {
		must(t, err)
		if k.Kind == vault.KindRecovery {
			must(t, v.Store.Delete(t.Context(), vault.KeyName(k.ID)))
			must(t, v.Store.PutNew(t.Context(), vault.KeyName(k.ID), 2, bytes.NewReader([]byte("{}"))))
		}
	}
	_, err := rotation.Begin(t.Context(), v)
	must(t, err)
}
