package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/seal"
	"github.com/millrace-backup/millrace/vault/store"
)

// ErrNonceReused: two chunks were sealed with one key and one nonce. Whoever has both
// knows what their plain texts have in common, and can forge others.
var ErrNonceReused = errors.New("a nonce is used twice")

// Nonces wants each sealed chunk of all packs that are there to have a key and nonce of its
// own. A pack that was moved has the sealed bytes of another, which is no second use.
func (o Opened) Nonces(ctx context.Context) error {
	// A sealed chunk begins with the key's number, a salt and a nonce, and ends with a tag
	// (docs/format/keys.md), which differs where anything does.
	const nonce, tag = 29, 16
	type end struct {
		tag  [tag]byte
		pack string
	}
	seen := map[[nonce]byte]end{}
	packs := make([]catalog.PackKey, 0, len(o.State.Packs))
	for k := range o.State.Packs {
		packs = append(packs, k)
	}
	slices.SortFunc(packs, func(a, b catalog.PackKey) int { return slices.Compare(a.Pack[:], b.Pack[:]) })
	for _, k := range packs {
		name := vault.PackName(k.Job, k.Pack)
		text, err := store.ReadAll(ctx, o.Vault.Store, name, vault.MaxPack)
		if errors.Is(err, store.ErrNotFound) {
			continue // retired, and deleted
		}
		if err != nil {
			return err
		}
		info, err := vault.ReadPackFooter(ctx, o.Vault.Store, o.Vault.Keys, k.Job, k.Pack)
		if err != nil {
			return err
		}
		for _, e := range info.Entries {
			if int64(e.Offset)+int64(e.Stored) > int64(len(text)) || e.Stored < seal.Overhead {
				return fmt.Errorf("%s: a chunk of %d bytes at %d", name, e.Stored, e.Offset)
			}
			sealed := text[e.Offset : e.Offset+e.Stored]
			this := end{[tag]byte(sealed[len(sealed)-tag:]), name}
			if other, ok := seen[[nonce]byte(sealed)]; ok && other.tag != this.tag {
				return fmt.Errorf("%s and %s: %w", other.pack, name, ErrNonceReused)
			}
			seen[[nonce]byte(sealed)] = this
		}
	}
	return nil
}
