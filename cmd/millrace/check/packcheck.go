package check

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

// packs reads a percentage of the vault's packs whole, and prints and returns
// those that are damaged, at a second look too. A point shows only the chunks that
// it refers to; the others, stored by a job that made no point or left over by one
// that was forgotten, are what the next backup would refer to. Packs that a point
// has shown to be damaged are left out.
func (c *run) packs(ctx context.Context) (bad []error, err error) {
	s, err := c.v.Now(ctx)
	if err != nil {
		return nil, err
	}
	packs := slices.SortedFunc(maps.Values(s.Packs), func(a, b *catalog.Pack) int { return cmp.Compare(a.Position, b.Position) })
	var total, done int64
	for _, p := range packs {
		total += p.Size
	}
	bar := c.Progress("verify packs")
	defer bar.Done()
	for _, p := range packs {
		done += p.Size
		name := vault.PackName(p.PackKey.Job, p.PackKey.Pack)
		// The name is a hash: as good as drawn by lot.
		if p.Retired != 0 || c.told[name] || int(p.PackKey.Pack[0])*100 >= c.percent*256 {
			continue
		}
		err := c.pack(ctx, s, p)
		bar.At(done, total)
		if err == nil {
			continue
		}
		if !isDamage(err) {
			return bad, err
		}
		bad = append(bad, err)
		if c.Settings.JSON {
			c.PrintJSON(vaultDamageJSON{"damage", name, err.Error()})
		} else {
			fmt.Fprintf(c.Stdout, "vault: DAMAGED: %s\n", session.Plain(err.Error()))
		}
	}
	return bad, nil
}

// pack reads one pack whole. What was withdrawn of it is known to be damaged and needs
// no telling, so such a pack is read chunk by chunk.
func (c *run) pack(ctx context.Context, s *catalog.State, p *catalog.Pack) error {
	known := s.Bad(0)
	switch {
	case known.Whole(p.PackKey):
		return nil
	case known[p.PackKey] == nil:
		err := restore.Pack(ctx, c.v.Vault, p.PackKey.Job, p.PackKey.Pack, p.Size)
		if err == nil || !isDamage(err) {
			return err
		}
		if s, err = c.v.Now(ctx); err != nil {
			return err
		}
	}
	bad, stop := c.eye.Pack(ctx, s, p.PackKey, c.seen)
	return cmp.Or(stop, bad)
}
