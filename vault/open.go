package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/apart"
	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/store"
)

// Open opens the vault in st with a password or with the recovery key: ErrNoVault,
// ErrWrongKey, ErrNewer, or ErrDamaged when no key opens and one of them, or the
// vault's own description, cannot be read. Keys are signed: a wrong password and
// a damaged key never look the same. A damaged key object does not keep
// another from opening. Each password tried costs one Argon2id, about 0.1 s.
func Open(ctx context.Context, st store.Store, password []byte) (*Vault, error) {
	c, err := ReadConfig(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	v := &Vault{ID: c.ID, Config: c, Store: st}
	if v.Keys, err = v.unlock(ctx, password); err != nil {
		return nil, fmt.Errorf("open vault %s: %w", c.ID, err)
	}
	if err := v.match(); err != nil {
		return nil, fmt.Errorf("open vault %s: %w", c.ID, err)
	}
	v.Keys.FetchFrom(apart.Source(ctx, st))
	return v, nil
}

// unlock tries password on every key it could be for: those of the last rotation
// first, and recovery keys before others, for they cost nothing.
func (v *Vault) unlock(ctx context.Context, password []byte) (*Keys, error) {
	var bad []error
	var all []*envelope
	for e, err := range v.envelopes(ctx) {
		if err == nil {
			all = append(all, e)
			continue
		}
		if ctx.Err() != nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			return nil, err
		}
		bad = append(bad, err)
	}
	slices.SortStableFunc(all, func(a, b *envelope) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), cmp.Compare(b.Kind, a.Kind))
	})
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		k, err := e.try(password)
		if err == nil {
			return k, nil
		}
		bad = appendUnlessWrong(bad, err)
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	if _, looksLike, isRecovery := kdf.ParseRecovery(password); looksLike && !isRecovery {
		return nil, fmt.Errorf("this looks like a recovery key, but has a mistake in it: %w", ErrWrongKey)
	}
	return nil, ErrWrongKey
}

// try opens e with what may be a password or a recovery key as people keep it.
func (e *envelope) try(password []byte) (*Keys, error) {
	if e.Kind != KindRecovery {
		return e.unwrap(password)
	}
	recovery, _, is := kdf.ParseRecovery(password)
	if !is {
		return nil, ErrWrongKey
	}
	return e.unwrap(recovery)
}

// OpenedBy lists the keys that password opens.
func (v *Vault) OpenedBy(ctx context.Context, password []byte) (out []id.Key, err error) {
	for e, err := range v.envelopes(ctx) {
		if err != nil {
			continue // opens for nobody
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := e.try(password); err == nil {
			out = append(out, e.ID)
		}
	}
	return out, nil
}

func appendUnlessWrong(bad []error, err error) []error {
	if errors.Is(err, ErrWrongKey) {
		return bad
	}
	return append(bad, err)
}

// envelopes yields the keys of v, well-formed or as an error naming the object, then
// with no more than the ID if the name has one.
// Those of another vault, which a Create that died leaves behind, are skipped. If
// there is no key at all the vault is damaged.
func (v *Vault) envelopes(ctx context.Context) iter.Seq2[*envelope, error] {
	return func(yield func(*envelope, error) bool) {
		n := 0
		for entry, err := range v.Store.List(ctx, keyPrefix) {
			if err != nil {
				yield(nil, fmt.Errorf("list keys: %w", err))
				return
			}
			e, err := v.readEnvelope(ctx, entry.Name)
			if errors.Is(err, store.ErrNotFound) || err == nil && e == nil {
				continue // removed meanwhile, or another vault's
			}
			if n++; n > MaxKeys {
				yield(nil, damaged(keyPrefix, "more than %d keys", MaxKeys))
				return
			}
			if err != nil {
				e = &envelope{}
				_ = e.ID.UnmarshalText([]byte(strings.TrimPrefix(entry.Name, keyPrefix)))
			}
			if !yield(e, err) {
				return
			}
		}
		if n == 0 {
			yield(nil, damaged(keyPrefix, "vault %s has no key", v.ID))
		}
	}
}

func (v *Vault) readEnvelope(ctx context.Context, name string) (*envelope, error) {
	text, err := store.ReadAll(ctx, v.Store, name, maxEnvelope)
	if errors.Is(err, store.ErrLength) {
		return nil, damaged(name, "longer than %d bytes", maxEnvelope)
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return parseEnvelope(name, text, v.Config)
}

// match holds the secrets against the signed description.
func (v *Vault) match() error {
	if v.Keys.Vault() != v.ID || !v.Keys.Public().Equal(v.Config.SigningKey) {
		return damaged(keyPrefix, "the wrapped signing key is not the vault's")
	}
	for _, d := range v.Config.Domains {
		if !v.Keys.Holds(PartAll, d.ID) {
			return damaged(keyPrefix, "not all keys for domain %s", d.ID)
		}
	}
	return nil
}
