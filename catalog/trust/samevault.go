package trust

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// SameVault asks a store once whether it answers and holds the vault want: its
// description, or store.ErrOther.
func SameVault(ctx context.Context, st store.Store, want id.Vault) (vault.Config, error) {
	c, err := vault.ReadConfig(ctx, st)
	if err == nil && c.ID != want {
		err = fmt.Errorf("%w: %s instead of %s", store.ErrOther, c.ID, want)
	}
	return c, err
}
