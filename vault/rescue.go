package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/vault/apart"
	"github.com/millrace-backup/millrace/vault/store"
)

// Rescue opens a vault whose "vault" object is lost by its keys; ErrNoVault without one.
func Rescue(ctx context.Context, st store.Store, password []byte) (*Vault, error) {
	found := ErrNoVault
	var keys *Keys // of the last rotation that the password opens
	for entry, err := range st.List(ctx, keyPrefix) {
		if err != nil {
			return nil, fmt.Errorf("rescue vault: %w", err)
		}
		k, err := rescue(ctx, st, entry.Name, password)
		if err == nil && (keys == nil || k.Generation() > keys.Generation()) {
			keys = k
		}
		found = errors.Join(found, err)
	}
	if keys != nil {
		keys.FetchFrom(apart.Source(ctx, st))
		return &Vault{keys.Vault(), Config{Format: Format, ID: keys.Vault(), SigningKey: keys.Public(), CellSize: 4 << 20, BlockSize: 4 << 10}, st, keys}, nil
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
	return e.try(password)
}
