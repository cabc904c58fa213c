package vault

import (
	"errors"
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
		if _, err := next.addPassword(t.Context(), []byte(password), "next", quick(), noon()); err != nil {
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
			if err := v.RemoveKey(t.Context(), k.ID); err != nil {
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
