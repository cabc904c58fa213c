package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/store"
)

// Rescue opens a vault whose "vault" object is lost by its keys; ErrNoVault without one.
func Rescue(ctx context.Context, st store.Store, password []byte) (*Vault, error) {
	found := ErrNoVault
	for entry, err := range st.List(ctx, keyPrefix) {
		if err != nil {
			return nil, fmt.Errorf("rescue vault: %w", err)
		}
		k, err := rescue(ctx, st, entry.Name, password)
		if err == nil {
			return &Vault{k.Vault(), Config{Format: Format, ID: k.Vault(), SigningKey: k.Public(), CellSize: 4 << 20, BlockSize: 4 << 10}, st, k}, nil
		}
		found = errors.Join(found, err)
	}
	return nil, fmt.Errorf("rescue vault: %w", found)
}

func rescue(ctx context.Context, st store.Store, name string, password []byte) (*Keys, error) {
	text, err := store.ReadAll(ctx, st, name, maxEnvelope)
	unsigned, err2 := allButLast(text)
	bound, err3 := allButLast(unsigned)
	e := envelope{bound: bound}
	if err := errors.Join(err, err2, err3, json.Unmarshal(text, &e), e.check(name)); err != nil {
		return nil, damaged(name, "%v", err)
	}
	if secret, _, isRecovery := kdf.ParseRecovery(password); isRecovery {
		password = secret
	}
	return e.unwrap(password)
}
