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
	"github.com/millrace-backup/millrace/vault/apart"
	"github.com/millrace-backup/millrace/vault/store"
)

// Prefix is what the names of these objects begin with.
const Prefix = "rotations/"

// ErrUnreadable: what a rotation that has not ended has stored does not open with the
// keys from before. It is damaged, or was put there by somebody who does not have them.
var ErrUnreadable = errors.New("a rotation that was not finished cannot be read")

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
		if errors.Is(err, vault.ErrDamaged) {
			continue // opens for nobody
		}
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
	keys, err := read(ctx, v, object, fresh.Keys.Generation())
	if errors.Is(err, store.ErrNotFound) {
		return fail(vault.ErrRotated) // ended meanwhile
	}
	if err != nil {
		return fail(err)
	}
	keys.FetchFrom(apart.Source(ctx, v.Store))
	return &vault.Vault{ID: v.ID, Config: v.Config, Store: v.Store, Keys: keys}, nil
}

// read opens the object of the rotation that makes a generation of v's keys.
func read(ctx context.Context, v *vault.Vault, object string, generation int) (*vault.Keys, error) {
	sealed, err := store.ReadAll(ctx, v.Store, object, maxObject)
	if errors.Is(err, store.ErrLength) {
		return nil, fmt.Errorf("%w: %w: %w", ErrUnreadable, vault.ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	grant, err := v.Keys.OpenMeta(nil, vault.TypeRotation, []byte(object), sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	defer clear(grant)
	keys, err := vault.LoadGrant(grant)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if keys.Vault() != v.ID || keys.Generation() != generation {
		return nil, fmt.Errorf("%w: keys of vault %s, generation %d: %w", ErrUnreadable, keys.Vault(), keys.Generation(), vault.ErrDamaged)
	}
	for _, d := range v.Config.Domains {
		if !keys.Holds(vault.PartAll, d.ID) {
			return nil, fmt.Errorf("%w: not all keys of domain %s: %w", ErrUnreadable, d.ID, vault.ErrDamaged)
		}
	}
	return keys, nil
}

// Discard deletes the object of a rotation of v's keys that has not ended, if it cannot be
// read. Who asks for it knows that nobody is rotating them: he would have other fresh keys
// in memory than who begins after this.
func Discard(ctx context.Context, v *vault.Vault) error {
	object := name(v.Keys.Generation() + 1)
	_, err := read(ctx, v, object, v.Keys.Generation()+1)
	if !errors.Is(err, ErrUnreadable) {
		return nil // Begin says what is wrong, or goes on with it
	}
	if err := v.Store.Delete(ctx, object); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("discard a rotation that was not finished: %w", err)
	}
	return nil
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
