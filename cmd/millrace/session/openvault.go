package session

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/witness"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Vault is a vault as a verb works with it.
type Vault struct {
	*vault.Vault
	Ledger   *ledger.Ledger
	Location string // canonical
	memory   Memory
	witness  []witness.Place
	unkept   error          // why a witness could not be written
	state    *catalog.State // of the whole ledger when it was last asked for; nil before
	note     func(format string, args ...any)
}

// found is a vault before anyone has tried a password on it.
type found struct {
	location  string // as it was given
	canonical string
	st        *dir.Store
	cfg       vault.Config
	memory    Memory
	first     bool // this machine has not seen a vault there before
}

// find finds the vault of the settings. Which vault it is comes before the password: a
// password typed for one vault is not to be tried on another.
func (a *App) find(ctx context.Context) (f found, err error) {
	if f.location, err = a.Settings.VaultLocation(); err != nil {
		return f, err
	}
	folder, err := LocalFolder(f.location)
	if err != nil {
		return f, err
	}
	f.canonical, f.memory = CanonicalPath(folder), Memory{a.Settings.State}
	if f.st, err = dir.Open(folder); err == nil {
		f.cfg, err = vault.ReadConfig(ctx, f.st)
	}
	if err == nil {
		err = f.st.Mark(ctx, vault.ConfigName)
	}
	if err == nil {
		f.first, err = a.meet(f.memory, f.canonical, f.cfg)
	}
	return f, fault.At("open vault", f.location, err)
}

// OpenVault opens the vault of the settings with the password, holds it against
// what this machine and the witnesses remember of it, and opens its ledger.
func (a *App) OpenVault(ctx context.Context) (*Vault, error) {
	f, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	password, err := a.Password(ctx, false)
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, f.st, password)
	clear(password)
	if err != nil {
		return nil, fault.At("open vault", f.location, err)
	}
	// The password cost 64 MiB to try, which nothing else will ever need.
	debug.FreeOSMemory()
	o := &Vault{Vault: v, Location: f.canonical, memory: f.memory, note: a.Note, witness: a.witnesses()}
	if err := a.openLedger(ctx, o, f); err != nil {
		return nil, err
	}
	for _, err := range o.Ledger.Damaged() {
		a.Note("millrace: %v", err)
	}
	a.Remember(o)
	return o, nil
}

// Rekeyed is o, opened with other keys of the same vault, which read also what was
// written since those of o were rotated.
func (a *App) Rekeyed(ctx context.Context, o *Vault, fresh *vault.Vault) (*Vault, error) {
	remembered := o.Ledger.Signed()
	n := *o
	n.Vault, n.state = fresh, nil
	var err error
	n.Ledger, err = ledger.Open(ctx, fresh, ledger.Options{Cache: o.memory.Cache(o.ID, "ledger"), Remembered: &remembered, Now: a.Now})
	return &n, ledgerFault(o.Location, err)
}

// ledgerFault is what is wrong with a ledger that cannot be read. Where it is
// damaged there is one command that still reads.
func ledgerFault(location string, err error) error {
	f := &fault.Fault{Op: "read ledger of vault", Object: location, Err: err}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, vault.ErrDamaged) && !errors.Is(err, ledger.ErrRollback) && !errors.Is(err, ledger.ErrForked):
		f.Remedy = fmt.Sprintf("keep the vault as it is and check the disk below it; millrace recover %s says what can be read all the same, and with --to DIR reads it", location)
	}
	return f
}

// unremembered is for a vault of which no checkpoint is remembered. If that has been
// lost, copies of its segments may still show that it was longer once; else its
// state is trusted, and that is said.
func (a *App) unremembered(m Memory, o *Vault, first bool, copies uint64) error {
	next, _, _ := o.Ledger.Head()
	if err := m.shorter(o.ID, next, copies); err != nil {
		return err
	}
	if !first {
		a.Note("millrace: the checkpoint of vault %s that was remembered in %s is gone: the vault's state is trusted on first use", o.ID, m.checkpointFile(o.ID))
	}
	return nil
}

// meet compares the vault at a place with the one that was there before. first says
// that there was none.
func (a *App) meet(m Memory, canonical string, cfg vault.Config) (first bool, err error) {
	known, file, err := m.at(canonical)
	if err != nil {
		return false, err
	}
	switch {
	case known.IsZero():
		a.Note("vault %s at %s is trusted on first use: it is remembered in %s", cfg.ID, canonical, file)
		if err := m.Meet(canonical, cfg.ID, a.Now()); err != nil {
			a.Note("millrace: %v; the next command will trust it anew", err)
		}
	case known != cfg.ID:
		return false, &fault.Fault{Err: fmt.Errorf("expected vault %s, found %s: %w", known, cfg.ID, store.ErrOther),
			Remedy: "check the path and what is mounted there; to trust the vault that is there now, remove " + file}
	}
	return known.IsZero(), nil
}

// Cache is a folder for what can be had again from the vault.
func (o *Vault) Cache(what string) string { return o.memory.Cache(o.ID, what) }

// LocalFolder returns the folder of a vault given as a path or file URL.
func LocalFolder(location string) (string, error) {
	scheme, rest, isURL := strings.Cut(location, "://")
	if !isURL {
		return location, nil
	}
	if scheme != "file" {
		return "", &fault.Fault{Code: "usage", Op: "find vault", Object: location,
			Err:    fmt.Errorf("vaults behind %s:// are not supported by this version", scheme),
			Remedy: "use a folder: a path or file:///PATH"}
	}
	u, err := url.Parse(location)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", &fault.Fault{Code: "usage", Op: "find vault", Object: location, Err: fmt.Errorf("%q is not a local path", rest)}
	}
	if runtime.GOOS == "windows" {
		return filepath.FromSlash(strings.TrimPrefix(u.Path, "/")), nil
	}
	return u.Path, nil
}

// CanonicalPath names a folder the same way however it was reached. A folder
// that is not there keeps the name it was given.
func CanonicalPath(folder string) string {
	if abs, err := filepath.Abs(folder); err == nil {
		folder = abs
	}
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		folder = real
	}
	return folder
}
