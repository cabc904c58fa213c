// Package upkeep ends processes of the commands that look after a vault, alone and
// beside each other, at moments nobody chose: backup, forget, prune, rotation of keys.
// (Package kills looks closer at backups alone.)
//
// A trial begins with a copy of a vault in which two guests have four points each. Three
// times it changes the disk of a guest and starts one of the commands, or two of
// them at once, of which the second may come from another host (another state folder).
// At a moment drawn from the whole life of such a command one process is killed, or
// all of them at one instant. Then the command is given again.
//
// # What passes
//
// Whatever a command had acknowledged by its exit code holds: the point of a backup
// is listed, what was forgotten is not, the recovery key that a rotation printed opens
// the vault. Of a command that was killed either all holds or nothing. Points that
// nobody forgot are listed. The command that is given again ends well within a minute.
// No process outlives a command's main process by more than ten seconds.
//
// At the end, with prune having deleted all that it may, audit verify with and without
// the password and verify --read-data end with 0, each listed point restores equal
// to the disk as it was, each fact that can be true only once is in the ledger
// once, and no nonce was used twice. What prune deleted is gone.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/workload"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "upkeep", Count: 220,
		About: "Three times a trial starts backup, forget, prune or key rotation, or two of them at once, kills one process or all at a random moment, and gives the\n" +
			"command again. It passes if what was acknowledged holds, nothing is told twice, the next command ends well within a minute, every listed point restores\n" +
			"equal, and `audit verify` and `verify --read-data` find nothing. States are kills that hit a running command.",
		Open: func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e, 8) },
	}
}

// guests are the names of the two disks, and so of the guests.
func guests() []string { return []string{"a.raw", "b.raw"} }

// bench is what trials begin with.
type bench struct {
	trial.Env
	place *rig.Place
	made  []string // points, in order
	files []string // of each, the disk as it was
	// lasts is how long each command took when it was last left alone: the machine's
	// speed changes.
	lasts map[string]time.Duration
}

const mib = 1 << 20

// open makes a vault of two guests with disks of size MiB and four points each.
func open(ctx context.Context, e trial.Env, size int64) (*bench, error) {
	b := &bench{Env: e, lasts: map[string]time.Duration{}}
	var err error
	if b.place, err = rig.New(ctx, b.Program, filepath.Join(e.Dir, "base"), b.Now); err != nil {
		return nil, err
	}
	for k, guest := range guests() {
		if err := rig.Mixed(b.place.Path(guest), size*mib, e.Seed+uint64(k)); err != nil {
			return nil, err
		}
	}
	for n := range 8 {
		image := b.place.Path(guests()[n%2])
		if _, err := workload.Scatter(image, 0.05, e.Seed+uint64(n)); err != nil {
			return nil, err
		}
		start := b.Now()
		end, err := b.place.Must(ctx, "backup", image)
		if err != nil {
			return nil, err
		}
		b.lasts["backup"] = b.Now().Sub(start)
		file, err := keep(image, e.Dir)
		if err != nil {
			return nil, err
		}
		b.made, b.files = append(b.made, pointOf(end)), append(b.files, file)
	}
	for name := range commands() {
		if b.lasts[name] == 0 {
			b.lasts[name] = b.lasts["backup"]
		}
	}
	return b, nil
}

func (b *bench) Close() error { return nil }

// keep copies a disk aside and returns the copy's path.
func keep(image, folder string) (string, error) {
	f, err := os.CreateTemp(folder, filepath.Base(image))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(image)
	if err == nil {
		_, err = f.Write(text)
	}
	return f.Name(), errors.Join(err, f.Close())
}

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	t, err := b.begin(rng, filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n)))
	defer func() { err = errors.Join(err, os.RemoveAll(t.place.Dir)) }()
	for round := 0; round < 3 && err == nil; round++ {
		if err = t.round(ctx); err != nil {
			err = fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	if err == nil {
		err = t.end(ctx)
	}
	out.Kinds, out.Note, out.Checks = t.kinds, t.note, t.hits
	return out, err
}

// begin copies the vault to a folder.
func (b *bench) begin(rng *rand.Rand, folder string) (*course, error) {
	p, err := b.place.Copy(folder, guests()...)
	t := &course{bench: b, place: p, rng: rng, points: map[string]point{}, recovery: p.Recovery}
	for n, file := range b.files {
		t.add(b.made[n], file, sure)
	}
	return t, err
}
