// Package rotation gives a vault fresh keys once, however many begin to at a time and
// whoever dies half-way.
//
// Fresh keys that two make at once would each open only what their own maker seals. So
// the first to store his in the object rotations/<generation> has made them, sealed with
// the keys from before, and everyone else who has those takes them from there. The
// object goes when keys/ objects of that generation are durable. Until then, and no
// longer, who holds the old keys can have the fresh ones; a rotation that died is
// finished by the next.
//
// Whoever comes after that with old keys in hand may store such an object again. It is
// then sure to see the keys/ objects, which were there before the first one went, and
// gives up.
package rotation

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Prefix is what the names of these objects begin with.
const Prefix = "rotations/"

// maxObject bounds what is read of one: secrets of all domains a vault may have.
const maxObject = 12 << 20

func name(generation int) string { return fmt.Sprintf("%s%04d", Prefix, generation) }

// Begin returns v with the keys of the next generation: fresh ones, or those of somebody
// who began before and has not ended. vault.ErrRotated if v's keys are not the latest.
func Begin(ctx context.Context, v *vault.Vault) (*vault.Vault, error) {
	fresh, err := v.Rotated()
	if err != nil {
		return nil, err
	}
	object := name(fresh.Keys.Generation())
	grant, err := fresh.Keys.Grant(vault.PartAll)
	if err != nil {
		return nil, err
	}
	defer clear(grant)
	sealed, err := v.Keys.SealMeta(nil, vault.TypeRotation, []byte(object), grant)
	if err != nil {
		return nil, err
	}
	err = v.Store.PutNew(ctx, object, int64(len(sealed)), bytes.NewReader(sealed))
	switch {
	case errors.Is(err, store.ErrExists):
		return adopt(ctx, v, fresh)
	case err != nil:
		return nil, fmt.Errorf("begin a rotation: %w", err)
	}
	for k, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err != nil {
			return nil, fmt.Errorf("begin a rotation: %w", err)
		}
		if k.Generation >= fresh.Keys.Generation() {
			return nil, errors.Join(fmt.Errorf("begin a rotation: %w", vault.ErrRotated), v.Store.Delete(ctx, object))
		}
	}
	return fresh, nil
}

// adopt takes the keys that somebody else has made.
func adopt(ctx context.Context, v, fresh *vault.Vault) (*vault.Vault, error) {
	object := name(fresh.Keys.Generation())
	fail := func(err error) (*vault.Vault, error) {
		return nil, fmt.Errorf("go on with the rotation in %s: %w", object, err)
	}
	sealed, err := store.ReadAll(ctx, v.Store, object, maxObject)
	if errors.Is(err, store.ErrNotFound) {
		return fail(vault.ErrRotated) // ended meanwhile
	}
	if err != nil {
		return fail(err)
	}
	grant, err := v.Keys.OpenMeta(nil, vault.TypeRotation, []byte(object), sealed)
	if err != nil {
		return fail(err)
	}
	defer clear(grant)
	keys, err := vault.LoadGrant(grant)
	if err != nil {
		return fail(err)
	}
	if keys.Vault() != v.ID || keys.Generation() != fresh.Keys.Generation() {
		return fail(fmt.Errorf("keys of vault %s, generation %d: %w", keys.Vault(), keys.Generation(), vault.ErrDamaged))
	}
	for _, d := range v.Config.Domains {
		if !keys.Holds(vault.PartAll, d.ID) {
			return fail(fmt.Errorf("not all keys of domain %s: %w", d.ID, vault.ErrDamaged))
		}
	}
	return &vault.Vault{ID: v.ID, Config: v.Config, Store: v.Store, Keys: keys}, nil
}

// End says that keys/ objects of fresh's generation are durable. A crash before it
// leaves the object to the next rotation, whose End takes away all that are there.
func End(ctx context.Context, fresh *vault.Vault) error {
	for generation := fresh.Keys.Generation(); generation > 0; generation-- {
		err := fresh.Store.Delete(ctx, name(generation))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("end a rotation: %w", err)
		}
	}
	return nil
}
