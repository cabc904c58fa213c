package rig

import (
	"context"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Opened is what a machine without memory sees of a vault.
type Opened struct {
	Vault  *vault.Vault
	Ledger *ledger.Ledger
	State  *catalog.State // folded from all of the ledger
}

// Open opens the vault in a folder, with nothing remembered and no copy of the catalog
// used. Beside an error there is what was opened before it.
func Open(ctx context.Context, folder, secret string, now func() time.Time) (o Opened, err error) {
	st, err := dir.Open(folder)
	if err != nil {
		return o, err
	}
	if o.Vault, err = vault.Open(ctx, st, []byte(secret)); err != nil {
		return o, err
	}
	if o.Ledger, err = ledger.Open(ctx, o.Vault, ledger.Options{Now: now}); err != nil {
		return o, err
	}
	o.State, err = catalog.Fold(o.Ledger.Records(ctx, 0))
	return o, err
}
