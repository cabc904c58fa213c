package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

func (t *course) add(id, file string, l listing) {
	guest := filepath.Base(file)[:1] + ".raw" // a copy is named for its guest
	t.points[id] = point{file, guest, l}
	t.order = append(t.order, id)
}

func (t *course) set(id string, l listing) {
	p := t.points[id]
	p.listed = l
	t.points[id] = p
}

// rule notes what a rule that keeps the newest points of each guest may forget. A
// backup beside it adds a newer one, and of one that was killed nobody knows.
func (t *course) rule(keep int) {
	newest := map[string]int{}
	for k := len(t.order) - 1; k >= 0; k-- {
		id := t.order[k]
		p := t.points[id]
		if p.listed == never {
			continue
		}
		if newest[p.guest]++; newest[p.guest] >= keep && p.listed == sure {
			t.set(id, maybe)
		}
	}
}

// pointOf is the point that a backup says it has made.
func pointOf(end rig.Ended) string {
	var all []string
	if json.Unmarshal(end.Summary().Points, &all) != nil || len(all) != 1 {
		return ""
	}
	return all[0]
}

// recoveryOf is the recovery key that a rotation has printed.
func recoveryOf(end rig.Ended) string {
	for _, l := range end.Lines {
		if l.Recovery != "" {
			return l.Recovery
		}
	}
	return ""
}

// holds compares what a machine without memory sees with what was acknowledged, and
// learns what came of commands that were killed.
func (t *course) holds(ctx context.Context) error {
	o, err := rig.Open(ctx, t.place.Vault, rig.Password, t.Now)
	if err != nil {
		return fmt.Errorf("open the vault as a stranger: %w", err)
	}
	listed := map[string]bool{}
	for _, p := range o.State.Listed() {
		id := p.Point.String()
		listed[id] = true
		if _, known := t.points[id]; known {
			continue
		}
		file, err := t.adopt(ctx, id)
		if err != nil {
			return err
		}
		t.add(id, file, sure)
	}
	t.unsure = nil
	var wrong []error
	for id, p := range t.points {
		switch {
		case p.listed == sure && !listed[id]:
			wrong = append(wrong, fmt.Errorf("LOST: point %s is not listed", id))
		case p.listed == never && listed[id]:
			wrong = append(wrong, fmt.Errorf("point %s is listed, its forgetting was acknowledged", id))
		case listed[id]:
			t.set(id, sure)
		default:
			t.set(id, never)
		}
	}
	return errors.Join(wrong...)
}

// adopt finds the disk of a point whose backup was killed after its commit.
func (t *course) adopt(ctx context.Context, id string) (string, error) {
	for _, file := range t.unsure {
		if t.place.Same(ctx, id, file) == nil {
			t.note += "its point was committed; "
			return file, nil
		}
	}
	return "", fmt.Errorf("point %s is listed, nobody made it of any of %d disks", id, len(t.unsure))
}

// end has prune do all it can, and looks at the whole vault.
func (t *course) end(ctx context.Context) error {
	for _, args := range [][]string{
		{"prune", "--margin", "0s", "--full"}, {"prune", "--margin", "0s"},
		{"audit", "verify"}, {"audit", "verify", "--no-password"}, {"audit", "replay"}, {"verify", "--read-data"},
	} {
		if _, err := t.place.Must(ctx, args...); err != nil {
			return err
		}
	}
	if _, err := rig.Open(ctx, t.place.Vault, t.recovery, t.Now); err != nil {
		return fmt.Errorf("the recovery key that was printed last: %w", err)
	}
	if t.recovery != t.place.Recovery {
		if _, err := rig.Open(ctx, t.place.Vault, t.place.Recovery, t.Now); err == nil {
			return errors.New("the recovery key from before the rotation opens the vault")
		}
	}
	o, err := rig.Open(ctx, t.place.Vault, rig.Password, t.Now)
	wrong := []error{err}
	if err == nil {
		wrong = append(wrong, o.Once(ctx), o.Nonces(ctx))
	}
	for id, p := range t.points {
		if p.listed == sure {
			wrong = append(wrong, t.place.Same(ctx, id, p.file))
		}
	}
	return errors.Join(wrong...)
}
