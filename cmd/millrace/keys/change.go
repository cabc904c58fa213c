package keys

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/keyring"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/rotation"
	"github.com/millrace-backup/millrace/vault/store"
)

// look says how all keys stand, and what refuses a change that is decided by that.
func (a verb) look(ctx context.Context, v *session.Vault) ([]keyring.Key, *ledger.Guard, error) {
	var r keyring.Ring
	if err := r.Read(ctx, v.Ledger); err != nil {
		return nil, nil, err
	}
	s, err := v.Now(ctx) // opens every body, so that no header that was read is forged
	if err != nil {
		return nil, nil, err
	}
	keys, err := r.Look(ctx, v.Vault, s.Keys)
	if err == nil && keyring.Newest(keys) > v.Keys.Generation() {
		err = fmt.Errorf("keys of a later rotation open the vault: %w", vault.ErrRotated)
	}
	return keys, r.Guard(), err
}

// settle finishes what a key command that died has left, tells what nothing explains, and
// says how all keys stand.
func (a verb) settle(ctx context.Context, v *session.Vault) ([]keyring.Key, *ledger.Guard, error) {
	for {
		keys, guard, err := a.look(ctx, v)
		if err != nil {
			return nil, nil, err
		}
		var c change
		for _, k := range keys {
			c.finish(k, v.Keys.Generation())
		}
		if len(c.facts) == 0 {
			for _, k := range keys {
				if k.Err != nil {
					a.Note("millrace: %v; millrace audit verify says more, and millrace key remove takes it away", k.Err)
				}
			}
			return keys, guard, a.endRotation(ctx, v)
		}
		if err := a.delete(ctx, v, c.goes); err != nil {
			return nil, nil, err
		}
		if g := v.Keys.Generation(); g > 0 && c.newest == g && keyring.Newest(keys) < g {
			metaKey, err := v.Keys.MetaKeyID()
			if err != nil {
				return nil, nil, err
			}
			c.facts = append(c.facts, events.KeysRotated{Generation: uint32(g), MetaKey: metaKey, By: session.User()})
		}
		_, err = a.Guarded(ctx, v, guard, c.in, c.out, c.facts...)
		if err != nil && !errors.Is(err, keyring.ErrChanged) {
			return nil, nil, err
		}
		for _, text := range c.notes {
			if err == nil {
				a.Note("millrace: %s", text)
			}
		}
	}
}

// change is what is to be said of keys that somebody left half-way.
type change struct {
	in, out []ledger.ObjectRef
	facts   []events.Fact
	goes    []string // is to be deleted first
	notes   []string
	newest  int // generation of keys that are brought in
}

// finish enters how a key that somebody left half-way ends. generation is that of the keys
// at hand. Later ones are of a rotation, for the next rotation to go on with: if they were
// brought in, those whose passwords it has not reached yet would be left behind.
func (c *change) finish(k keyring.Key, generation int) {
	switch {
	case k.Standing == keyring.Pending && k.Generation > generation:
	case k.Unnamed, k.Standing == keyring.Pending && k.Generation == generation:
		c.in = append(c.in, k.There)
		c.facts = append(c.facts, events.KeyAdded{Key: k.ID, KeyKind: k.Kind, Label: k.Label})
		if !k.Unnamed {
			c.newest = max(c.newest, k.Generation)
			c.notes = append(c.notes, fmt.Sprintf("%s key %s %s was stored by a command that died or is not done: it opens the vault", k.Kind, id.Short(k.ID), session.Plain(k.Label)))
		}
	case k.Standing == keyring.Leaving, k.Standing == keyring.Pending: // of before a rotation
		c.goes = append(c.goes, k.Name)
		c.out = append(c.out, ledger.ObjectRef{Name: k.Name})
		c.facts = append(c.facts, events.KeyDeleted{Key: k.ID})
	}
}

// endRotation ends a rotation whose keys are in the ledger, if it died before its end.
func (a verb) endRotation(ctx context.Context, v *session.Vault) error {
	if v.Keys.Generation() == 0 {
		return nil
	}
	return rotation.End(ctx, v.Vault)
}

// delete deletes objects of which a segment says that they are retired, once that is
// signed: an unsigned segment explains nothing.
func (a verb) delete(ctx context.Context, v *session.Vault, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if _, err := v.Ledger.Checkpoint(ctx); err != nil {
		return err
	}
	for _, name := range names {
		if err := v.Store.Delete(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("delete %s, which opens the vault no more by what the ledger says; the next key command tries again: %w", name, err)
		}
	}
	return nil
}

// bring lets keys that were prepared open the vault; owner has the secrets they open. The
// facts in first are said with them.
func (a verb) bring(ctx context.Context, v *session.Vault, owner *vault.Vault, prepared []vault.Prepared, first ...events.Fact) error {
	ctx = context.WithoutCancel(ctx) // it takes no time, and half of it helps nobody
	var refs []ledger.ObjectRef
	var announced []events.Fact
	ours := map[id.Key]bool{}
	for _, p := range prepared {
		refs = append(refs, keyring.Ref(vault.KeyName(p.ID), p.Text))
		announced = append(announced, events.KeyAnnounced{Key: p.ID, KeyKind: p.Kind, Label: p.Label})
		first = append(first, events.KeyAdded{Key: p.ID, KeyKind: p.Kind, Label: p.Label})
		ours[p.ID] = true
	}
	// A crash after this leaves names of objects that are not there.
	where, err := a.Guarded(ctx, v, nil, nil, refs, announced...)
	if err != nil {
		return err
	}
	for _, p := range prepared {
		// A crash after this leaves a key that opens the vault and that the ledger
		// explains; the next key command brings it in.
		if err := owner.AddKey(ctx, p); err != nil {
			return err
		}
	}
	guard := &ledger.Guard{Next: where.Position + 1, Check: func(r events.Record) error { return overtaken(r.Fact, ours, owner) }}
	// If this is refused, the objects stay: somebody else may have brought them in.
	_, err = a.Guarded(ctx, v, guard, refs, nil, first...)
	if err != nil {
		return fmt.Errorf("what opens the vault has changed, and the ledger may not know; the next key command tells it: %w", err)
	}
	return nil
}

// overtaken says that keys which are being added are of no use any more.
func overtaken(f events.Fact, ours map[id.Key]bool, owner *vault.Vault) error {
	switch f := f.(type) {
	case events.KeyRemoved:
		if ours[f.Key] {
			return fmt.Errorf("key %s was removed meanwhile: %w", id.Short(f.Key), keyring.ErrChanged)
		}
	case events.KeyDeleted:
		if ours[f.Key] {
			return fmt.Errorf("key %s was deleted meanwhile: %w", id.Short(f.Key), keyring.ErrChanged)
		}
	case events.KeysRotated:
		same := int(f.Generation) == owner.Keys.Generation() && owner.Keys.HoldsMetaKey(f.MetaKey)
		if int(f.Generation) > owner.Keys.Generation() || int(f.Generation) == owner.Keys.Generation() && !same {
			return fmt.Errorf("others have rotated the keys for the %d. time meanwhile: %w", f.Generation, vault.ErrRotated)
		}
	}
	return nil
}

// drop lets keys open the vault no more, unless the guard refuses, which says that nobody
// has said anything of keys since that was decided.
func (a verb) drop(ctx context.Context, v *session.Vault, guard *ledger.Guard, keys []keyring.Key, why string) error {
	ctx = context.WithoutCancel(ctx)
	var facts, deleted []events.Fact
	var out, gone []ledger.ObjectRef
	var names []string
	for _, k := range keys {
		name := ledger.ObjectRef{Name: k.Name}
		ref := name // gone at once: there was nothing that may be there
		if k.Standing == keyring.Opens {
			ref = k.There
		}
		out, gone, names = append(out, ref), append(gone, name), append(names, k.Name)
		facts = append(facts, events.KeyRemoved{Key: k.ID, Why: why, By: session.User()})
		deleted = append(deleted, events.KeyDeleted{Key: k.ID})
	}
	if _, err := a.Guarded(ctx, v, guard, nil, out, facts...); err != nil {
		return err
	}
	// A crash after this leaves keys that open the vault and that the ledger explains; the
	// next key command deletes them.
	if err := a.delete(ctx, v, names); err != nil {
		return err
	}
	// A crash after this leaves names of which nobody says that they are gone; so does the
	// next key command.
	_, err := a.Guarded(ctx, v, nil, nil, gone, deleted...)
	return err
}

// room refuses more keys than a vault can have.
func room(keys []keyring.Key, more int) error {
	there := 0
	for _, k := range keys {
		if k.There.Name != "" || k.Standing == keyring.Damaged {
			there++
		}
	}
	if there+more > vault.MaxKeys {
		return fault.Usage("the vault has %d keys and can have %d: remove some with millrace key remove", there, vault.MaxKeys)
	}
	return nil
}
