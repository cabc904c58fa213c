package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"

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
	return v, nil
}

// unlock tries password on every key it could be for: a recovery key first, for
// that costs nothing.
func (v *Vault) unlock(ctx context.Context, password []byte) (*Keys, error) {
	var bad []error
	var passwords []*envelope
	recovery, looksLike, isRecovery := kdf.ParseRecovery(password)
	for e, err := range v.envelopes(ctx) {
		if err != nil {
			if ctx.Err() != nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				return nil, err
			}
			bad = append(bad, err)
			continue
		}
		if e.Kind == KindPassword {
			passwords = append(passwords, e)
		} else if isRecovery {
			k, err := e.unwrap(recovery)
			if err == nil {
				return k, nil
			}
			bad = appendUnlessWrong(bad, err)
		}
	}
	for _, e := range passwords {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		k, err := e.unwrap(password)
		if err == nil {
			return k, nil
		}
		bad = appendUnlessWrong(bad, err)
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	if looksLike && !isRecovery {
		return nil, fmt.Errorf("this looks like a recovery key, but has a mistake in it: %w", ErrWrongKey)
	}
	return nil, ErrWrongKey
}

func appendUnlessWrong(bad []error, err error) []error {
	if errors.Is(err, ErrWrongKey) {
		return bad
	}
	return append(bad, err)
}

// envelopes yields the keys of v, well-formed or as an error naming the object.
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
			if n++; n > maxKeys {
				yield(nil, damaged(keyPrefix, "more than %d keys", maxKeys))
				return
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

// match holds the secrets against the signed description: the same vault, the
// same signing key, all parts of all domains.
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
