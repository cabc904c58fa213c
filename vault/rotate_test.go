package vault

import (
	"errors"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/id"
)

// Fresh keys seal, old ones open what they sealed; what names and cuts chunks stays,
// and whoever has the keys from before cannot open what is new.
func TestRotation(t *testing.T) {
	v, _ := newVault(t, newMemory())
	d, c := v.Config.DefaultDomain, id.Chunk{1}
	seal := func(v *Vault) []byte {
		t.Helper()
		b, err := v.Keys.SealChunk(nil, d, c, []byte("frame"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	opens := func(v *Vault, sealed []byte) error {
		b, err := v.Keys.OpenChunk(nil, d, c, sealed)
		if err == nil && string(b) != "frame" {
			t.Fatalf("opened %q", b)
		}
		return err
	}
	before, keys := seal(v), v
	for generation := 1; generation <= 3; generation++ {
		next, err := keys.Rotated()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), v.Store, []byte("of nobody")); !errors.Is(err, ErrWrongKey) {
			t.Fatal(err)
		}
		if _, err := addPassword(t.Context(), next, []byte(password), "next", quick(), noon()); err != nil {
			t.Fatal(err)
		}
		got, err := Open(t.Context(), v.Store, []byte(password)) // which opens the older ones, too
		if err != nil || got.Keys.Generation() != generation {
			t.Fatalf("generation %d, %v; want %d", got.Keys.Generation(), err, generation)
		}
		if err := errors.Join(opens(got, before), opens(got, seal(keys)), opens(got, seal(got)), opens(next, seal(got))); err != nil {
			t.Fatal(err)
		}
		if err := opens(keys, seal(got)); !errors.Is(err, ErrDamaged) {
			t.Errorf("the keys from before open what is new: %v", err)
		}
		a, _ := v.Keys.IDKey(d)
		b, _ := got.Keys.IDKey(d)
		a2, _ := v.Keys.CutKey(d)
		b2, _ := got.Keys.CutKey(d)
		was, _ := keys.Keys.MetaKeyID()
		is, _ := got.Keys.MetaKeyID()
		if a != b || a2 != b2 || got.ID != v.ID || !got.Keys.HoldsMetaKey(was) || keys.Keys.HoldsMetaKey(is) {
			t.Error("what names, cuts or signs has changed, or the meta keyset has not")
		}
		keys = got
	}
	all := 0
	for k, err := range ReadKeys(t.Context(), v.Store, v.Config) {
		if err != nil {
			t.Fatal(err)
		}
		all++
		if k.Generation < 3 {
			if err := v.Store.Delete(t.Context(), KeyName(k.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	opened, err := v.OpenedBy(t.Context(), []byte(password))
	if err != nil || all != 5 || len(opened) != 1 {
		t.Errorf("%d keys, %d left that the password opens, %v", all, len(opened), err)
	}
	rescued, err := Rescue(t.Context(), v.Store, []byte(password))
	if err != nil || rescued.Keys.Generation() != 3 {
		t.Errorf("rescued %+v, %v", rescued, err)
	}
}

// Keys of a grant cannot be rotated: the rest would be lost.
func TestPartsAreNotRotated(t *testing.T) {
	v, _ := newVault(t, newMemory())
	grant, err := v.Keys.Grant(PartMeta | PartData | PartIDs)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := LoadGrant(grant)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parts.Rotate(); !errors.Is(err, ErrNoPart) {
		t.Error(err)
	}
}

// A key object says which generation its secrets are, in clear, because that decides which
// is tried first. One that lies is damaged.
func TestAKeyOfAnotherGeneration(t *testing.T) {
	v, _ := newVault(t, newMemory())
	secret := []byte("another")
	key := Key{ID: id.NewKey(), Kind: KindPassword, Label: "x", Created: noon(), KDF: quick().WithSalt()}
	kek, err := key.KDF.Derive(secret)
	if err != nil {
		t.Fatal(err)
	}
	for generation, want := range map[int]error{0: nil, 1: ErrDamaged} {
		e := envelope{Format: Format, Vault: v.ID, ID: key.ID, Kind: key.Kind, Label: key.Label, Created: key.Created, KDF: key.KDF, Generation: generation}
		if e.bound, err = e.wrapBinding(); err != nil {
			t.Fatal(err)
		}
		if e.Wrapped, err = v.Keys.Wrap(kek, key.ID, e.bound); err != nil {
			t.Fatal(err)
		}
		text, err := signJSON(&e, &e.Signature, keySigned, v.Keys)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parseEnvelope(KeyName(key.ID), text, v.Config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsed.unwrap(secret); !errors.Is(err, want) {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
}

// Secrets that are not all that the vault's description names open nothing.
func TestSecretsAreHeldAgainstTheDescription(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	c := v.Config
	c.Domains = append(slices.Clone(c.Domains), Domain{id.Domain{7}, c.Domains[0].Cutter})
	text, err := encodeConfig(c, v.Keys)
	if err != nil {
		t.Fatal(err)
	}
	st.objects[ConfigName] = text
	if _, err := Open(t.Context(), st, []byte(password)); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	w := *v
	w.Config.SigningKey = slices.Clone(c.SigningKey)
	w.Config.SigningKey[0] ^= 1
	if err := w.match(); !errors.Is(err, ErrDamaged) {
		t.Errorf("another signing key: %v", err)
	}
	w = *v
	w.ID[0] ^= 1
	if err := w.match(); !errors.Is(err, ErrDamaged) {
		t.Errorf("another vault: %v", err)
	}
}
