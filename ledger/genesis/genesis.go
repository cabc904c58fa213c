// Package genesis writes the first segment of a vault's ledger.
//
// [Begin] says which vault it is and which keys open it, as facts, and names the objects
// of both in the clear header, so that a key that has gone, was swapped or altered shows
// without the password like any pack. [Ref] makes such a name of an object that is there;
// whoever adds a key or removes one names its object in the header of the segment that
// says so, as brought in or retired.
//
// A crash before Begin has returned leaves a vault without a ledger, or with its first
// segment and no checkpoint: both are opened by the next command, and whoever appends the
// second segment signs the first before that. Vaults that were made
// before this package was have a first segment that names no object.
package genesis

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// maxObject bounds what is read of a key or of the vault's description.
const maxObject = 12 << 20

// Begin appends the first facts and signs them. version is the program's.
func Begin(ctx context.Context, v *vault.Vault, l *ledger.Ledger, version string) (ledger.Checkpoint, error) {
	facts := []events.Fact{created(v.Config, version)}
	names := []string{vault.ConfigName}
	for key, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err != nil {
			return ledger.Checkpoint{}, err
		}
		facts = append(facts, events.KeyAdded{Key: key.ID, KeyKind: key.Kind, Label: key.Label})
		names = append(names, vault.KeyName(key.ID))
	}
	var in []ledger.ObjectRef
	for _, name := range names {
		o, err := Ref(ctx, v.Store, name)
		if err != nil {
			return ledger.Checkpoint{}, err
		}
		in = append(in, o)
	}
	if _, err := l.Append(ctx, id.Job{}, facts, in, nil); err != nil {
		return ledger.Checkpoint{}, err
	}
	return l.Checkpoint(ctx)
}

// Ref is how a header names a small object that is there.
func Ref(ctx context.Context, st store.Store, name string) (ledger.ObjectRef, error) {
	b, err := store.ReadAll(ctx, st, name, maxObject)
	if err != nil {
		return ledger.ObjectRef{}, fmt.Errorf("name %s in the ledger: %w", name, err)
	}
	return ledger.ObjectRef{Name: name, Sum: sha256.Sum256(b), Size: int64(len(b))}, nil
}

func created(c vault.Config, version string) events.VaultCreated {
	f := events.VaultCreated{Vault: c.ID, Version: version, Format: uint32(c.Format), CellSize: c.CellSize, BlockSize: c.BlockSize}
	for _, d := range c.Domains {
		f.Domains = append(f.Domains, Domain(d))
	}
	return f
}

// Domain is a dedup domain as facts have it.
func Domain(d vault.Domain) events.DomainInfo {
	c := d.Cutter
	return events.DomainInfo{Domain: d.ID, Cutter: c.Name, Min: c.Min, Normal: c.Normal, Max: c.Max, Block: c.Block, ZeroRun: c.ZeroRun}
}
