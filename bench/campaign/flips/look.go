package flips

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// found is what Millrace says about a vault.
type found struct {
	open  map[string]error // by secret: why it does not open, or its points cannot be listed
	vault []error          // what is wrong with ledger, checkpoints and keys
	// points has what became of each; nil when no secret leads to them.
	points map[id.Point]result
	packs  map[string]error // damaged ones, by name
}

// result is what became of a point.
type result struct {
	verify  error
	report  restore.Report
	restore error
	equal   bool
}

// look does what verify --read-data does, and restores every point. The error is
// one of the harness.
func (b *base) look(ctx context.Context) (f found, err error) {
	f.open = map[string]error{}
	for _, s := range []struct{ kind, secret string }{{vault.KindPassword, rig.Password}, {vault.KindRecovery, b.place.Recovery}} {
		opened, err := rig.Open(ctx, b.place.Vault, s.secret, b.now)
		v, state := opened.Vault, opened.State
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
		f.open[s.kind] = err
		if v != nil && f.vault == nil {
			f.vault = b.lookVault(ctx, v)
		}
		if err != nil || f.points != nil {
			continue
		}
		f.points, f.packs = map[id.Point]result{}, map[string]error{}
		for k, p := range state.Packs {
			if err := restore.Pack(ctx, v, k.Job, k.Pack, p.Size); err != nil {
				f.packs[vault.PackName(k.Job, k.Pack)] = err
			}
		}
		listed := map[id.Point]events.PointCommitted{}
		for _, p := range state.Listed() {
			listed[p.Point] = p.PointCommitted
		}
		for _, p := range b.points {
			one, ok := listed[p.Point]
			if !ok {
				f.points[p.Point] = result{verify: errLost, restore: errLost}
				continue
			}
			f.points[p.Point] = p.try(ctx, v, one)
		}
		if len(listed) > len(b.points) {
			return f, fmt.Errorf("%d points are listed, there were %d", len(listed), len(b.points))
		}
	}
	return f, ctx.Err()
}

// errLost: the point is not listed any more. It is no damage, so no judge takes it
// for an answer.
var errLost = errors.New("the point is not listed")

// lookVault is what verify does before it looks at points.
func (b *base) lookVault(ctx context.Context, v *vault.Vault) (wrong []error) {
	l, err := ledger.Open(ctx, v, ledger.Options{Now: b.now})
	if err != nil {
		wrong = append(wrong, err)
	} else {
		wrong = append(wrong, l.Damaged()...)
		if err := l.Verify(ctx); err != nil {
			wrong = append(wrong, err)
		}
	}
	for _, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	return wrong
}

// try verifies and restores a point.
func (p *point) try(ctx context.Context, v *vault.Vault, now events.PointCommitted) (r result) {
	r.report, r.verify = restore.Verify(ctx, v, now, restore.Options{ReadPercent: 100})
	r.equal = true
	for n, d := range now.Disks {
		if d.Size > 1<<30 {
			return result{verify: errLost, restore: errLost} // damage must not make us allocate
		}
		to := make(target, d.Size)
		if err := restore.Disk(ctx, v, d, to, restore.Options{}); err != nil {
			r.restore, r.equal = err, false
			return r
		}
		r.equal = r.equal && sha256.Sum256(to) == p.sums[n]
	}
	return r
}

// target is a disk in memory.
type target []byte

func (t target) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(t)) {
		return 0, fmt.Errorf("write of %d bytes at %d beyond %d", len(p), at, len(t))
	}
	return copy(t[at:], p), nil
}
