package flips

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

// program runs the binary over a copy of the damaged vault: as a stranger whose
// state folder is empty, and every other time as the machine that wrote it.
func (b *bench) program(ctx context.Context, m mutation, n int) (kinds []string, wrong []error) {
	folder := b.place.Path("copy")
	defer os.RemoveAll(folder)
	p := b.place.With(filepath.Join(folder, "vault"), filepath.Join(folder, "state"))
	who := "a stranger"
	err := rig.Link(b.place.Vault, p.Vault)
	if n/b.every%2 == 1 {
		// The memory of vaults goes by path: the copy is one that was moved.
		who, err = "its owner", errors.Join(err, os.CopyFS(p.State, os.DirFS(b.place.State)))
	}
	if err != nil {
		return nil, []error{err}
	}
	say := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("the program, as %s: %w", who, fmt.Errorf(format, args...)))
	}
	allowed, mustFail := b.exits(m)
	end, err := p.Run(ctx, "verify", "--read-data")
	switch {
	case err != nil:
		say("verify: %w", err)
	case !allowed[end.Exit] || mustFail && end.Exit == 0:
		say("%w", end.Err("verify"))
	case end.Exit == 4 && !told(end, m):
		say("verify does not name %s: %w", m.object, end.Err("verify"))
	}
	b.restores(ctx, p, allowed, say)
	if m.kind == "packs" || m.kind == unneeded {
		kinds = append(kinds, "backed up again")
		if b.heals(ctx, p, say) {
			kinds = append(kinds, "healed")
		}
	}
	return kinds, wrong
}

// restores restores every point: equal, or one of the allowed exits.
func (b *bench) restores(ctx context.Context, p *rig.Place, allowed map[int]bool, say sayer) {
	for k, one := range b.points {
		b.equal(ctx, p, one.Point.String(), b.place.Path(fmt.Sprintf("point-%d.raw", k)), allowed, say)
	}
}

func (b *bench) equal(ctx context.Context, p *rig.Place, point, want string, allowed map[int]bool, say sayer) {
	out := filepath.Join(filepath.Dir(p.Vault), "out.raw")
	end, err := p.Run(ctx, "restore", point, "--to", out, "--force")
	switch {
	case err != nil:
		say("restore: %w", err)
	case end.Exit == 0:
		if same, err := rig.Equal(out, want); err != nil || !same {
			say("WRONG BYTES: restore of %s: %v", point, err)
		}
	case !allowed[end.Exit]:
		say("%w", end.Err("restore"))
	}
}

// heals backs all guests up once more, over a vault of which verify has told what is
// damaged, and wants the points of that to be whole. It reports whether all is: what no
// image has any more nobody can store again.
func (b *bench) heals(ctx context.Context, p *rig.Place, say sayer) bool {
	for _, image := range []string{"a.raw", "b.raw", "own-1.raw", "own-2.raw"} {
		if end, err := p.Run(ctx, "backup", b.place.Path(image)); err != nil || end.Exit != 0 {
			say("backup of %s after verify: %v: %w", image, err, end.Err("backup"))
			return false
		}
		if end, err := p.Run(ctx, "verify", image+"@latest", "--read-data"); err != nil || end.Exit != 0 {
			say("the point of %s after verify is not whole: %v: %w", image, err, end.Err("verify"))
		}
		b.equal(ctx, p, image+"@latest", b.place.Path(image), nil, say)
	}
	b.restores(ctx, p, map[int]bool{0: true, 4: true}, say)
	end, err := p.Run(ctx, "verify", "--read-data")
	if err != nil || end.Exit != 0 && end.Exit != 4 {
		say("verify after backup: %v: %w", err, end.Err("verify"))
	}
	return err == nil && end.Exit == 0
}

// exits are the exit codes that go with a mutation, and whether verify must not
// end with 0.
func (b *base) exits(m mutation) (allowed map[int]bool, mustFail bool) {
	switch m.kind {
	case "vault": // 1: a later version, 10: no vault, or another one
		return map[int]bool{1: true, 4: true, 10: true}, true
	case "keys":
		if m.gone() {
			if m.object == b.secrets["password"] {
				return map[int]bool{12: true}, true
			}
			return map[int]bool{0: true}, false
		}
		return map[int]bool{0: true, 1: true, 4: true}, true
	case "checkpoints":
		return map[int]bool{0: true, 4: true}, m.what != "removal"
	case "ledger": // 1: a later version
		return map[int]bool{0: true, 1: true, 4: true}, true
	case "tables", "packs", "domains", unneeded:
		return map[int]bool{0: true, 4: true}, true
	}
	return map[int]bool{0: true}, false
}

// told reports whether the object is named in what a command printed, of two that were
// swapped at least one.
func told(e rig.Ended, m mutation) bool {
	for _, l := range e.Lines {
		if strings.Contains(string(l.Raw), m.object) || m.what == "swap" && strings.Contains(string(l.Raw), m.second) || m.kind == "vault" ||
			m.kind == "domains" && strings.Contains(string(l.Raw), path.Dir(m.object)) {
			return true
		}
	}
	return false
}
