package restore

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Pack reads a pack from its first to its last byte and holds it against its name,
// which is the hash of them; size is what the ledger says it has. It needs no key.
// A point shows only the chunks that it refers to; this shows damage in the others
// too, to which the next backup would refer. The error is vault.ErrDamaged, or
// why the pack could not be read at all.
func Pack(ctx context.Context, v *vault.Vault, job id.Job, pack id.Object, size int64) error {
	name := vault.PackName(job, pack)
	fail := func(err error) error {
		if stops(ctx, err) {
			return fmt.Errorf("verify pack: %w", err)
		}
		return unreadable(name, size, err)
	}
	entry, err := store.Stat(ctx, v.Store, name)
	if err != nil {
		return fail(err)
	}
	if entry.Size != size {
		return damaged(name, "it has %d bytes, the ledger says %d", entry.Size, size)
	}
	sum, buf := sha256.New(), make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), size-at)]
		if _, err := v.Store.Get(ctx, name, at, part); err != nil {
			return fail(err)
		}
		sum.Write(part)
	}
	if got := id.Object(sum.Sum(nil)); got != pack {
		return damaged(name, "its bytes have the hash %s and not the one it is named by", got)
	}
	return nil
}
