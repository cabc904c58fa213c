// Package crash is the campaign of power cuts: the real program runs once, every
// effect that any of its processes has on the disk is recorded, and after each
// effect the power goes, in every way that the rules of package crashfs allow.
//
// [Campaign] has five scenarios: init, the first backup, the second backup, backups of
// two guests at once by processes that share nothing but the vault, restore.
// Each is recorded when the campaign is opened, by strace, from outside: nothing in
// the program knows of it, and nothing that it writes is missed, since the recording
// played back has to give the folder that is really there. One trial takes one
// scenario and one seed through all its effects: nothing unsynced left, everything
// left, and, by the seed, some of it left, torn and out of order.
//
// What must hold in every one of these states, by what the program had said on its
// standard output before the power went: the vault opens with the password; every
// object in it is whole; the ledger opens, verifies, and agrees with the checkpoint
// that the machine remembers; every fact that was printed is there; every point that
// is listed restores to the bytes that its guest had, and every point that was
// announced is listed; a restored file is whole or not there, beside it lies nothing
// but a .part. A sample of the states is put back on the real disk, where the program
// has to list, back up and restore without further ado.
//
// States that cannot be told apart from outside are judged once. strace and Linux are
// needed; without them Open says so.
package crash

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/vault/store/crashfs"
)

// seeds is how many ways of losing some of what was unsynced a full run tries at
// each effect.
const seeds = 20

// Campaign is the campaign of power cuts.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "crash",
		About: "A trial takes the recorded effects of init, backup, second backup, two backups at once or restore, all processes together, cuts the power after each of them (nothing, everything, " +
			"and by the seed some of the unsynced left), and passes when in every state what the program had said is true: see the comment of package bench/campaign/crash.",
		Count: seeds * scenarios,
		Open:  func(ctx context.Context, e trial.Env) (trial.Bench, error) { return open(ctx, e) },
	}
}

// scenarios is the number of recordings that open makes.
const scenarios = 5

// scenario is one command, recorded.
type scenario struct {
	name   string
	place  *rig.Place
	start  *crashfs.Disk
	log    []crashfs.Effect
	end    map[string][32]byte // every file when it was over, by path
	ended  *crashfs.Disk
	states []string // folders of what is remembered; a process each
	images versions
	target string   // of a restore
	told   [][]byte // by number of effects: what had been printed
	sample int      // states of a trial that the program itself is tried on
	judged map[[32]byte]error
}

// versions are the images of each guest that its points are of, oldest first.
type versions map[string][]string

// bench is the recordings, and a place to put states back on.
type bench struct {
	runs []*scenario
	// try says in which trials the program itself is tried on a state. Not in all: a
	// job that died is waited for half a minute.
	try func(n int) bool
}

func open(ctx context.Context, e trial.Env) (*bench, error) {
	if _, err := exec.LookPath("strace"); err != nil {
		return nil, fmt.Errorf("%w: it records what the program does to the disk", err)
	}
	b := &bench{try: func(n int) bool { return n/scenarios%4 == 0 }}
	fresh := &rig.Place{Program: e.Program, Dir: filepath.Join(e.Dir, "init", "disk")}
	fresh = fresh.With(fresh.Path("vault"), fresh.Path("state"))
	if err := os.MkdirAll(fresh.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(fresh.Path("password"), []byte(rig.Password+"\n"), 0o600); err != nil {
		return nil, err
	}
	p, err := rig.New(ctx, e.Program, filepath.Join(e.Dir, "job", "disk"), e.Now)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.Path("out"), 0o700); err != nil {
		return nil, err
	}
	runs, err := plan(fresh, p, e.Seed)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		if err := r.before(); err != nil {
			return nil, err
		}
		if len(r.states) == 0 {
			r.states = []string{r.place.State}
		}
		if err := r.record(ctx, r.command); err != nil {
			return nil, fmt.Errorf("record %s: %w", r.name, err)
		}
		e.Log("%s: %d effects", r.name, len(r.log))
		b.runs = append(b.runs, &r.scenario)
	}
	return b, nil
}

// run is a scenario before it is recorded.
type run struct {
	scenario
	command string // for the shell, $0 is the program
	before  func() error
}

// plan makes the images, and says what is run on them.
func plan(fresh, p *rig.Place, seed uint64) ([]*run, error) {
	at := func(name string) string { return filepath.Join(filepath.Dir(p.Dir), name) }
	one, two, three, fourth := at("one.raw"), at("two.raw"), at("three.raw"), at("fourth.raw")
	guest, other, target := at("guest.raw"), at("other.raw"), p.Path("out/restored.raw")
	if err := errors.Join(images(seed, one, two), images(seed+1, three, fourth), copyFile(fourth, other)); err != nil {
		return nil, err
	}
	becomes := func(image string) func() error { return func() error { return copyFile(image, guest) } }
	backup := `"$0" backup --json '` + guest + `'`
	second := p.Path("state2")
	all := versions{"guest.raw": {one, two, three}, "other.raw": {fourth}}
	return []*run{
		{scenario{name: "init", place: fresh}, `"$0" init --json`, func() error { return nil }},
		{scenario{name: "backup", place: p, images: versions{"guest.raw": {one}}}, backup, becomes(one)},
		{scenario{name: "second backup", place: p, images: versions{"guest.raw": {one, two}}}, backup, becomes(two)},
		{scenario{name: "two at once", place: p, images: all, states: []string{p.State, second}},
			`MILLRACE_STATE='` + second + `' "$0" backup --json '` + other + `' & ` + backup + ` && wait $!`, becomes(three)},
		{scenario{name: "restore", place: p, images: all, target: target}, `"$0" restore guest.raw@latest --json --to '` + target + `'`, func() error { return nil }},
	}, nil
}

// record runs the command and checks that the recording is all there was.
func (s *scenario) record(ctx context.Context, command string) error {
	var err error
	if s.start, err = crashfs.Load(s.place.Dir); err != nil {
		return err
	}
	work := filepath.Dir(s.place.Dir)
	c := exec.Command("sh", "-c", command, s.place.Program)
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+s.place.Vault, "MILLRACE_STATE="+s.place.State, "MILLRACE_PASSWORD_FILE="+s.place.Path("password"))
	if s.log, err = record(ctx, s.start, s.place.Dir, filepath.Join(work, "told"), work, c); err != nil {
		return err
	}
	s.told = make([][]byte, len(s.log)+1)
	s.ended = s.start.Crash(crashfs.Kept, 0)
	for n, e := range s.log {
		s.told[n+1] = s.told[n]
		if e.Op == crashfs.OpNote {
			s.told[n+1] = append(bytes.Clone(s.told[n]), e.Data...)
		}
		if err := s.ended.Apply(e); err != nil {
			return err
		}
	}
	s.judged = map[[32]byte]error{}
	s.end = sums(s.ended, s.place.Dir, func(string) bool { return true })
	really, err := crashfs.Load(s.place.Dir)
	if err != nil {
		return err
	}
	return same(s.end, sums(really, s.place.Dir, func(string) bool { return true }))
}

// sums are the SHA-256 of the files that are wanted, by path.
func sums(d *crashfs.Disk, folder string, wanted func(path string) bool) map[string][32]byte {
	out := map[string][32]byte{}
	for f := range d.Files(folder) {
		if wanted(f.Path) {
			out[f.Path] = f.Sum()
		}
	}
	return out
}

// same: the effects in the order of the recording give what is really there.
func same(recorded, really map[string][32]byte) error {
	for path, sum := range really {
		if have, ok := recorded[path]; !ok || have != sum {
			return fmt.Errorf("the recording has missed something: %s (recorded: %v)", path, ok)
		}
	}
	for path := range recorded {
		if _, ok := really[path]; !ok {
			return fmt.Errorf("the recording has missed something: %s is not there", path)
		}
	}
	return nil
}

// Trial is trial.Bench's.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (trial.Outcome, error) {
	s := b.runs[n%scenarios]
	s.sample = 0
	if b.try(n) {
		s.sample = 1
	}
	states, judged, err := s.cut(ctx, []uint64{rng.Uint64() >> 32}, rng, nil)
	return trial.Outcome{Kinds: []string{s.name}, Checks: states, Note: fmt.Sprintf("%d effects, %d states, %d of them not seen before", len(s.log), states, judged)}, err
}

// Close is trial.Bench's.
func (b *bench) Close() error { return nil }

// cut cuts the power after every effect. Effects that drop says true for are as if
// the program had not done them.
func (s *scenario) cut(ctx context.Context, seeds []uint64, rng *rand.Rand, drop func(crashfs.Effect) bool) (states, judged int, err error) {
	start := s.start.Crash(crashfs.Kept, 0)
	tries := map[int]bool{} // judged states that the program is tried on
	for range s.sample {
		tries[rng.IntN(len(s.log))] = true
	}
	err = crashfs.Every(start, s.log, seeds, drop, func(c crashfs.Case, after *crashfs.Disk) error {
		states++
		v := s.view(c, after)
		key := v.key()
		bad, known := s.judged[key]
		if !known {
			judged++
			bad = v.judge(ctx)
			s.judged[key] = bad
		}
		if bad == nil && c.Mode == crashfs.Random && tries[c.Effects] {
			bad = s.try(ctx, v)
		}
		if bad != nil {
			at := "the beginning"
			if c.Effects > 0 {
				at = s.log[c.Effects-1].String()
			}
			return fmt.Errorf("%s, %s (%s): %w", s.name, c, at, bad)
		}
		return ctx.Err()
	})
	return states, judged, err
}

// images makes two states of a guest: data that repeats, noise, zeros, and changes.
func images(seed uint64, one, two string) error {
	const size, block = 10 << 20, 4096
	rng := rand.New(rand.NewPCG(seed, 3))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	b := make([]byte, size)
	for at := 0; at < size; at += block {
		switch cell := b[at : at+block]; rng.IntN(3) {
		case 0:
			_, _ = noise.Read(cell)
		case 1:
			for i := 0; i < block; i += 8 {
				binary.LittleEndian.PutUint64(cell[i:], uint64(at/block%500))
			}
		}
	}
	if err := os.WriteFile(one, b, 0o600); err != nil {
		return err
	}
	for range 40 {
		at := rng.IntN(size/block) * block
		_, _ = noise.Read(b[at : at+block])
	}
	return os.WriteFile(two, b, 0o600)
}

// copyFile replaces a file with the bytes of another.
func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
