package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/apart"
	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/seal"
	"github.com/millrace-backup/millrace/vault/store"
)

// Vault is an opened vault. It may be used from many goroutines; there is
// nothing to close.
type Vault struct {
	ID     id.Vault
	Config Config
	Store  store.Store
	Keys   *Keys
}

// CreateOptions are the choices that last as long as the vault. The zero value
// is right for nearly everyone.
type CreateOptions struct {
	Label     string           // of the password, for people; "first password" if empty
	CellSize  int64            // bytes; 4 MiB if 0
	BlockSize int64            // bytes; 4 KiB if 0
	Cutter    chunk.Params     // chunk.Default() if it has no name
	KDF       KDF              // of the password; DefaultKDF() if it has no name
	Now       func() time.Time // for Created; time.Now if nil
	// Recovery, if not nil, is given the vault's id and its recovery key before the
	// vault exists: a crash afterwards must not leave a vault whose key nobody has
	// seen. If it fails there is no vault.
	Recovery func(v id.Vault, key string) error
}

func (o CreateOptions) withDefaults() CreateOptions {
	if o.Label == "" {
		o.Label = "first password"
	}
	if o.CellSize == 0 {
		o.CellSize = 4 << 20
	}
	if o.BlockSize == 0 {
		o.BlockSize = 4 << 10
	}
	if o.Cutter.Name == "" {
		o.Cutter = chunk.Default()
	}
	if o.KDF.Name == "" {
		o.KDF = DefaultKDF()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Create makes a vault in st that password opens, and returns it with its
// recovery key, which is stored nowhere: show it once. ErrVaultExists if there is
// one. The keys are durable before the "vault" object appears; of two creators
// at once one wins and the other takes its keys away again. A Create that dies
// leaves at most key objects of a vault that never was; they do not matter.
func Create(ctx context.Context, st store.Store, password []byte, o CreateOptions) (*Vault, string, error) {
	o = o.withDefaults()
	switch _, err := store.Stat(ctx, st, ConfigName); {
	case err == nil:
		return nil, "", fmt.Errorf("create vault: %w", ErrVaultExists)
	case !errors.Is(err, store.ErrNotFound):
		return nil, "", fmt.Errorf("create vault: %w", err)
	}
	keys, domain, err := seal.New()
	if err != nil {
		return nil, "", fmt.Errorf("create vault: %w", err)
	}
	now := o.Now().UTC().Truncate(time.Second)
	keys.FetchFrom(apart.Source(ctx, st))
	v := &Vault{ID: keys.Vault(), Store: st, Keys: keys, Config: Config{
		Format: Format, ID: keys.Vault(), SigningKey: keys.Public(), Created: now,
		CellSize: o.CellSize, BlockSize: o.BlockSize,
		Domains: []Domain{{domain, o.Cutter}}, DefaultDomain: domain,
	}}
	if err := v.Config.check(); err != nil {
		return nil, "", fmt.Errorf("create vault: %w", err)
	}
	first, err := v.PreparePassword(password, o.Label, o.KDF, now)
	if err == nil {
		err = v.AddKey(ctx, first)
	}
	if err != nil {
		return nil, "", fmt.Errorf("create vault: %w", err)
	}
	second, recovery, err := v.PrepareRecovery(now)
	if err == nil && o.Recovery != nil {
		if err = o.Recovery(v.ID, recovery); err != nil {
			err = fmt.Errorf("show the recovery key: %w", err)
		}
	}
	if err == nil {
		err = v.AddKey(ctx, second)
	}
	if err != nil {
		return nil, "", fmt.Errorf("create vault: %w", err)
	}
	if err := v.publish(ctx, first.ID, second.ID); err != nil {
		return nil, "", fmt.Errorf("create vault: %w", err)
	}
	return v, recovery, nil
}

// publish writes the "vault" object. From here on the vault exists. If another
// creator was first, ours leaves no trace; after any other error the object may
// be there all the same, so the keys stay.
func (v *Vault) publish(ctx context.Context, keys ...id.Key) error {
	text, err := encodeConfig(v.Config, v.Keys)
	if err != nil {
		return err
	}
	err = v.Store.PutNew(ctx, ConfigName, int64(len(text)), bytes.NewReader(text))
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	there, err := ReadConfig(ctx, v.Store)
	if err == nil && there.ID == v.ID {
		return nil // ours after all: the store retried
	}
	if err == nil {
		for _, k := range keys {
			_ = v.Store.Delete(ctx, KeyName(k)) // tidiness only: a foreign key is ignored
		}
	}
	return ErrVaultExists
}

// Prepared is the object of a further key, which is not stored yet.
type Prepared struct {
	Key
	Text []byte // what is to be stored, under KeyName(ID)
}

// CheckPassword says why p can be the password of no vault; nil if it can.
func CheckPassword(p []byte) error {
	if _, looksLike, _ := kdf.ParseRecovery(p); looksLike {
		return errors.New("it looks like a recovery key")
	}
	if len(p) == 0 {
		return errors.New("it is empty")
	}
	return nil
}

// PreparePassword makes the key that lets one more password open the vault.
func (v *Vault) PreparePassword(password []byte, label string, how KDF, now time.Time) (Prepared, error) {
	if err := CheckPassword(password); err != nil {
		return Prepared{}, fmt.Errorf("add password: %w", err)
	}
	return v.prepare(Key{Kind: KindPassword, Label: label, Created: now, KDF: how}, password)
}

// PrepareRecovery makes a recovery key, which is to be shown before it is stored: a crash
// must not leave a key that nobody has seen.
func (v *Vault) PrepareRecovery(now time.Time) (p Prepared, recovery string, err error) {
	secret, text := kdf.NewRecovery()
	p, err = v.prepare(Key{Kind: KindRecovery, Label: "recovery key", Created: now, KDF: KDF{Name: kdf.Recovery}}, secret)
	return p, text, err
}

func (v *Vault) prepare(key Key, secret []byte) (Prepared, error) {
	if err := checkLabel(key.Label); err != nil {
		return Prepared{}, fmt.Errorf("add key: %w", err)
	}
	key.ID, key.KDF, key.Generation = id.NewKey(), key.KDF.WithSalt(), v.Keys.Generation()
	key.Created = key.Created.UTC().Truncate(time.Second)
	text, err := encodeKey(v.Keys, key, secret)
	return Prepared{key, text}, err
}

// AddKey stores a key that was prepared: from then on it opens the vault.
func (v *Vault) AddKey(ctx context.Context, p Prepared) error {
	if err := v.Store.PutNew(ctx, KeyName(p.ID), int64(len(p.Text)), bytes.NewReader(p.Text)); err != nil {
		return fmt.Errorf("add key %s: %w", id.Short(p.ID), err)
	}
	return nil
}

// Rotated is the vault with fresh keys to seal with, which open all that v opens. They
// exist in memory alone until a password or a recovery key is added to what it returns.
func (v *Vault) Rotated() (*Vault, error) {
	keys, err := v.Keys.Rotate()
	if err != nil {
		return nil, err
	}
	return &Vault{v.ID, v.Config, v.Store, keys}, nil
}

// ReadKeys lists the keys of the vault that c describes, in order of their ids. What
// is damaged or newer comes as an error that names it, with a Key that has no more than
// its ID if the object's name has one; other vaults' are left out.
func ReadKeys(ctx context.Context, st store.Store, c Config) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		v := &Vault{ID: c.ID, Config: c, Store: st}
		for e, err := range v.envelopes(ctx) {
			var k Key
			if e != nil {
				k = e.key()
			}
			if !yield(k, err) {
				return
			}
		}
	}
}
