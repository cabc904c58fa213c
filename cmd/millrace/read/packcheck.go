package read

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// verifyPacks reads percent of the vault's packs whole, and prints and returns
// those that are damaged. A point shows only the chunks that it refers to; the
// others, stored by a job that made no point or left over by one that was
// forgotten, are what the next backup would refer to. told are the packs that
// a point has shown to be damaged.
func (a verb) verifyPacks(ctx context.Context, v *session.Vault, percent int, told map[string]bool) (bad []error, err error) {
	s, err := v.State(ctx, session.Past{})
	if err != nil {
		return nil, err
	}
	packs := slices.SortedFunc(maps.Values(s.Packs), func(a, b *catalog.Pack) int { return cmp.Compare(a.Position, b.Position) })
	var total, done int64
	for _, p := range packs {
		total += p.Size
	}
	bar := a.Progress("verify packs")
	defer bar.Done()
	for _, p := range packs {
		done += p.Size
		name := vault.PackName(p.PackKey.Job, p.PackKey.Pack)
		// The name is a hash: as good as drawn by lot.
		if p.Retired != 0 || told[name] || int(p.PackKey.Pack[0])*100 >= percent*256 {
			continue
		}
		err := restore.Pack(ctx, v.Vault, p.PackKey.Job, p.PackKey.Pack, p.Size)
		bar.At(done, total)
		if err == nil {
			continue
		}
		if !isDamage(err) {
			return bad, err
		}
		bad = append(bad, err)
		if a.Settings.JSON {
			a.PrintJSON(vaultDamageJSON{"damage", name, err.Error()})
		} else {
			fmt.Fprintf(a.Stdout, "vault: DAMAGED: %s\n", session.Plain(err.Error()))
		}
	}
	return bad, nil
}
