// Package flips damages a vault in every way a disk, a copy program or an
// intruder can, one way a trial, and holds what Millrace says to what was done.
//
// The vault is made once by the real program: two guests, five codecs, full and
// incremental points, two guests with keys of their own, and packs of a job that made
// no point. Each trial picks
// a type of object, an object, a part of it and a mutation: a bit flipped, bytes
// zeroed, cut off or added, the object removed, put in the place of another,
// swapped with another, put back to an older one, or taken from another vault.
//
// # What passes
//
// Nothing ever: wrong bytes. Each point is restored; it must have exactly the bytes
// that were backed up, or end in vault.ErrDamaged.
//
// Detected means, by type of object:
//
//   - vault: the vault does not open, and says that it is damaged, from a later
//     version or not there.
//   - keys: the object is named, and each other key opens the vault and all of
//     its points. A key that is *gone* is what removing a password leaves: nothing
//     to detect. So is one that another vault's key took the place of: a vault
//     passes over foreign keys, which a creation that died leaves behind.
//   - checkpoints: the object is named, and every point restores, for the chain of
//     the ledger is checked from any other. One that is *gone* is not missed: it
//     proves what the next one proves too. (A machine that remembers the newest
//     notices an older state; that is tested in packages ledger and session.)
//   - ledger: the segment is named, of two at least one; as damaged or, where the
//     number of its format was hit, as of a later version. All points rest on all of
//     the ledger, so without another copy none may be readable; but then all say so.
//   - tables: the object is named by every point that uses it and cannot be read
//     whole; all other points are whole.
//   - packs: every chunk with a changed byte is named with exactly the ranges of
//     each point that need it, and no other chunk is; points that need none of
//     them restore. Header, footer and trailer of a pack hold nothing that a
//     restore needs: damage there names the pack, and everything restores.
//     A pack that no point needs, or a chunk of one, is named too: the next
//     backup would refer to it.
//   - domains: the points of the guests whose keys these are do not verify and do not
//     restore, and verify names the object, or the folder where it was; all other
//     points are whole.
//   - anything else (leases, copies of the catalog) is disposable by its format:
//     nothing needs to be detected, but everything restores.
//
// And millrace audit verify names the object, with the password and without it, to the
// machine that wrote the vault and to a stranger: of every type, disposable ones
// included. Only what nothing promises to keep may go unseen: a disposable object that is
// gone, and the newest checkpoint that is gone, to somebody who remembers nothing.
//
// One trial in 25 runs the real program over the damaged vault as well, with an
// empty state folder or with that of the machine that wrote it: verify --read-data
// ends with exit code 4 (10 where the vault is not there any more, 12 where the
// key of the password is gone), restores with 0 and equal bytes, or with these. Where a
// pack was hit, all guests are backed up again then: what verify has found is not to be
// trusted any more, so the new points are whole and restore equal, and no old point
// restores wrong bytes.
package flips

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "flips", Count: 5000,
		About: "Each trial damages one object of a vault (bit flip, zeroed range, truncation, extension, removal, replacement, swap, replay of an older object,\n" +
			"object of another vault), over all types of objects in turn. It passes if the damage is detected as the page of package `bench/campaign/flips` defines for the\n" +
			"type, only affected chunks are reported, and no restore has a wrong byte.",
		Open: func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e, 25) },
	}
}

// bench is a vault that is damaged and mended again and again.
type bench struct {
	*base
	every int // one trial in so many runs the program too
}

func open(ctx context.Context, e trial.Env, every int) (*bench, error) {
	b, err := newBase(ctx, e)
	if err != nil {
		return nil, err
	}
	return &bench{base: b, every: every}, nil
}

func (b *bench) Close() error { return nil }

// Trial damages, judges and mends.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	m, err := b.choose(n, rng)
	if err != nil {
		return out, err
	}
	out = trial.Outcome{Kinds: []string{m.kind, m.what}, Note: m.String()}
	if err := b.apply(m.after); err != nil {
		return out, err
	}
	defer func() {
		// Should mending fail, all later trials would: that is an error of this one.
		err = errors.Join(err, b.apply(m.before))
	}()
	found, err := b.look(ctx)
	if err != nil {
		return out, err
	}
	wrong := append(b.judge(m, found), b.audit(ctx, m, n%2 == 0)...)
	if b.every > 0 && n%b.every == 0 {
		ran, failed := b.program(ctx, m, n)
		out.Kinds = append(append(out.Kinds, "with the program"), ran...)
		wrong = append(wrong, failed...)
	}
	return out, errors.Join(wrong...)
}

// apply writes objects, or removes those that are nil.
func (b *base) apply(objects map[string][]byte) error {
	for name, content := range objects {
		path := filepath.Join(b.place.Vault, filepath.FromSlash(name))
		// Removed first: a hard link to it in a copy must keep its bytes.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("change vault: %w", err)
		}
		if content == nil {
			continue
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("change vault: %w", err)
		}
	}
	return nil
}
