// Package keykills kills the commands that change what opens a vault, at moments nobody
// chose and while another one runs, and sees whether the vault still opens.
//
// A trial makes a vault with two passwords and a recovery key and runs two of these at
// once, from two machines (state folders): key add, key add --recovery, key remove of a
// key drawn at random, key rotate that takes all passwords along, one that leaves the
// second behind, one that is opened with the recovery key. At a moment drawn from
// the time such a command takes, the first of them is killed with kill -9; in every fourth
// trial both are.
//
// # What passes
//
// The vault opens with a secret that somebody has: a password, or a recovery key that was
// printed. audit verify finds nothing, with it and without, before any other key command
// has run. A command that was not killed ends as it may: well, refused by what the other
// did (it was the last key, the keys were rotated), not damaged. Then a key is added and
// one is removed with the secret that opens the newest keys; both end well, audit verify
// finds nothing, and no key is left half-way.
package keykills

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/ledger/keyring"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "keykills", Count: 240,
		About: "Each trial runs two key commands on one vault at once and kills one of them, or both, at a random moment. It passes if the vault opens with a secret\n" +
			"that somebody has, `audit verify` finds nothing with the password and without, before and after the next key commands, and those end well.",
		Open: open,
	}
}

type bench struct {
	trial.Env
	took map[string]time.Duration // an undisturbed command
}

// commands by name; %key is a key of the vault.
func commands() map[string][]string {
	return map[string][]string{
		"add":             {"key", "add", "--new-password-file", "%third", "--label", "third"},
		"add recovery":    {"key", "add", "--recovery"},
		"remove":          {"key", "remove", "%key", "--force"},
		"rotate":          {"key", "rotate", "--keep-password-file", "%second"},
		"rotate by force": {"key", "rotate", "--force"},
		"rotate recovery": {"key", "rotate", "--force", "--keep-password-file", "%password"},
	}
}

func names() []string {
	return []string{"add", "add recovery", "remove", "rotate", "rotate by force", "rotate recovery"}
}

func open(ctx context.Context, e trial.Env) (trial.Bench, error) {
	b := &bench{Env: e, took: map[string]time.Duration{}}
	for _, name := range names() {
		t, err := b.place(ctx, filepath.Join(e.Dir, "undisturbed"), rand.New(rand.NewPCG(e.Seed, 0)))
		if err != nil {
			return nil, err
		}
		began := e.Now()
		ended, err := t.start(ctx, name, "a").Wait()
		if err == nil && ended.Exit != 0 {
			err = ended.Err(name)
		}
		if err != nil {
			return nil, fmt.Errorf("a command that is left alone: %w", err)
		}
		b.took[name] = e.Now().Sub(began)
		if err := os.RemoveAll(t.Dir); err != nil {
			return nil, err
		}
	}
	e.Log("undisturbed: %v", b.took)
	return b, nil
}

func (b *bench) Close() error { return nil }

// run is one trial.
type run struct {
	*rig.Place
	rng     *rand.Rand
	now     func() time.Time
	keys    []string // ids at the beginning
	secrets []string // that somebody has
}

func (b *bench) place(ctx context.Context, folder string, rng *rand.Rand) (*run, error) {
	p, err := rig.New(ctx, b.Program, folder, b.Now)
	if err != nil {
		return nil, err
	}
	r := &run{Place: p, rng: rng, now: b.Now, secrets: []string{rig.Password, "second", "third", "fourth", p.Recovery}}
	for _, name := range []string{"second", "third", "fourth"} {
		if err := os.WriteFile(p.Path(name), []byte(name+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	if _, err := r.Must(ctx, "key", "add", "--new-password-file", p.Path("second"), "--label", "second"); err != nil {
		return nil, err
	}
	o, err := rig.Open(ctx, p.Vault, rig.Password, b.Now)
	if err != nil {
		return nil, err
	}
	for k, err := range vault.ReadKeys(ctx, o.Vault.Store, o.Vault.Config) {
		if err != nil {
			return nil, err
		}
		r.keys = append(r.keys, k.ID.String())
	}
	return r, nil
}

// started is a command that runs, or why it does not.
type started struct {
	*rig.Process
	err error
}

func (s started) Wait() (rig.Ended, error) {
	if s.err != nil {
		return rig.Ended{}, s.err
	}
	return s.Process.Wait()
}

// start starts a command on a machine of its own.
func (r *run) start(ctx context.Context, name, machine string) started {
	p := r.With(r.Vault, r.State+"-"+machine)
	args := append([]string(nil), commands()[name]...)
	for n, a := range args {
		switch {
		case a == "%key":
			args[n] = r.keys[r.rng.IntN(len(r.keys))]
		case strings.HasPrefix(a, "%"):
			args[n] = p.Path(a[1:])
		}
	}
	if name == "rotate recovery" {
		args = append(args, "--password-file", p.Path("recovery"))
	}
	q, err := p.Start(ctx, nil, args...)
	return started{q, err}
}

// Trial implements trial.Bench.
func (b *bench) Trial(ctx context.Context, n int, rng *rand.Rand) (out trial.Outcome, err error) {
	first := names()[n%len(names())]
	second := names()[rng.IntN(len(names()))]
	both := n%4 == 3
	out.Kinds = []string{first}
	r, err := b.place(ctx, filepath.Join(b.Dir, fmt.Sprintf("trial-%d", n)), rng)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.Dir)) }()
	mortal, kill := context.WithCancel(ctx) // its end is a kill -9
	defer kill()
	other := ctx
	if both {
		other = mortal
	}
	// Two at once take longer than one.
	delay := time.Duration(rng.Float64() * 1.6 * float64(b.took[first]))
	out.Note = fmt.Sprintf("%s killed after %s, beside %s", first, delay.Round(time.Millisecond), second)
	one, two := r.start(mortal, first, "a"), r.start(other, second, "b")
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	kill()
	for _, p := range []struct {
		started
		killed bool
	}{{one, true}, {two, both}} {
		ended, err := p.Wait()
		if err != nil && !errors.Is(err, context.Canceled) {
			return out, err
		}
		r.remember(ended)
		switch {
		case ended.Exit == -1 && p.killed:
			out.Kinds = append(out.Kinds, "killed")
		case ended.Exit == 0:
			out.Kinds = append(out.Kinds, "done")
		case refused(ended):
			out.Kinds = append(out.Kinds, "refused")
		default:
			return out, ended.Err("one of the two")
		}
	}
	return out, r.judge(ctx)
}

// refused reports whether a command was kept from its work by what the other did.
func refused(e rig.Ended) bool {
	switch f := e.Fault(); f.Code {
	case "keys-rotated", "wrong-key":
		return true
	case "usage": // it was the last key, or had gone; or a password had come that is not taken along
		return true
	default:
		return strings.Contains(f.Cause, keyring.ErrChanged.Error())
	}
}

// remember takes down the recovery keys that were printed.
func (r *run) remember(e rig.Ended) {
	for _, l := range e.Lines {
		var said struct {
			RecoveryKey string `json:"recovery_key"`
		}
		if json.Unmarshal(l.Raw, &said) == nil && said.RecoveryKey != "" {
			r.secrets = append(r.secrets, said.RecoveryKey)
		}
	}
}

// judge sees what is left.
func (r *run) judge(ctx context.Context) error {
	secret, err := r.newest(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.Path("password"), []byte(secret+"\n"), 0o600); err != nil {
		return err
	}
	if err := r.audit(ctx); err != nil {
		return fmt.Errorf("before the next command: %w", err)
	}
	if _, err := r.Must(ctx, "key", "add", "--new-password-file", r.Path("fourth"), "--label", "fourth"); err != nil {
		return fmt.Errorf("the next command: %w", err)
	}
	if err := r.audit(ctx); err != nil {
		return fmt.Errorf("after the next command: %w", err)
	}
	o, err := rig.Open(ctx, r.Vault, "fourth", r.now)
	if err != nil {
		return fmt.Errorf("the password that was added: %w", err)
	}
	var ring keyring.Ring
	if err := ring.Read(ctx, o.Ledger); err != nil {
		return err
	}
	keys, err := ring.Look(ctx, o.Vault, o.State.Keys)
	if err != nil {
		return err
	}
	goes := ""
	for _, k := range keys {
		switch k.Standing {
		case keyring.Opens:
			if k.Label != "fourth" {
				goes = k.ID.String()
			}
		case keyring.Removed, keyring.Announced:
		default:
			return fmt.Errorf("key %s was left half-way, standing %d: %w", k.ID, k.Standing, k.Err)
		}
	}
	if err := os.WriteFile(r.Path("password"), []byte("fourth\n"), 0o600); err != nil {
		return err
	}
	if _, err := r.Must(ctx, "key", "remove", goes, "--force"); err != nil {
		return fmt.Errorf("the command after the next: %w", err)
	}
	return r.audit(ctx)
}

// newest is the secret that opens the newest keys.
func (r *run) newest(ctx context.Context) (best string, err error) {
	st, err := dir.Open(r.Vault)
	if err != nil {
		return "", err
	}
	c, err := vault.ReadConfig(ctx, st)
	if err != nil {
		return "", err
	}
	generation, latest := -1, 0
	for k, err := range vault.ReadKeys(ctx, st, c) {
		if err != nil {
			return "", err
		}
		latest = max(latest, k.Generation)
	}
	var why []error
	for _, secret := range r.secrets {
		if generation == latest {
			break
		}
		o, err := rig.Open(ctx, r.Vault, secret, r.now)
		if err != nil {
			why = append(why, err)
		}
		if err == nil && o.Vault.Keys.Generation() > generation {
			best, generation = secret, o.Vault.Keys.Generation()
		}
	}
	if generation < 0 {
		return "", fmt.Errorf("NOBODY CAN OPEN THE VAULT: %w", errors.Join(why...))
	}
	return best, nil
}

// audit looks for anything wrong, with the password and without.
func (r *run) audit(ctx context.Context) error {
	for _, args := range [][]string{{"audit", "verify"}, {"audit", "verify", "--no-password"}} {
		if _, err := r.Must(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
