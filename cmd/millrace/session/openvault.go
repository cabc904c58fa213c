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
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/ledger"
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
	state    *catalog.State // of the whole ledger when it was last asked for; nil before
	note     func(format string, args ...any)
}

// OpenVault opens the vault of the settings with the password, holds it against
// what this machine remembers of it, and opens its ledger.
func (a *App) OpenVault(ctx context.Context) (*Vault, error) {
	location, err := a.Settings.VaultLocation()
	if err != nil {
		return nil, err
	}
	folder, err := LocalFolder(location)
	if err != nil {
		return nil, err
	}
	canonical := CanonicalPath(folder)
	st, err := dir.Open(folder)
	if err != nil {
		return nil, fault.At("open vault", location, err)
	}
	// Which vault it is comes before the password: a password typed for one
	// vault is not to be tried on another.
	cfg, err := vault.ReadConfig(ctx, st)
	if err != nil {
		return nil, fault.At("open vault", location, err)
	}
	if err := st.Mark(ctx, vault.ConfigName); err != nil {
		return nil, fault.At("open vault", location, err)
	}
	m := Memory{a.Settings.State}
	first, err := a.meet(m, canonical, cfg)
	if err != nil {
		return nil, fault.At("open vault", location, err)
	}
	password, err := a.Password(ctx, false)
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, st, password)
	clear(password)
	if err != nil {
		return nil, fault.At("open vault", location, err)
	}
	// The password cost 64 MiB to try, which nothing else will ever need.
	debug.FreeOSMemory()
	o := &Vault{Vault: v, Location: canonical, memory: m, note: a.Note}
	remembered, copies, err := m.seen(cfg)
	if err != nil {
		return nil, err
	}
	from, err := saved.Reached(ctx, st)
	if err != nil {
		return nil, fault.At("read ledger of vault", location, err)
	}
	o.Ledger, err = ledger.Open(ctx, v, ledger.Options{Cache: m.Cache(v.ID, "ledger"), Remembered: remembered, From: from, Now: a.Now})
	if err == nil && remembered == nil {
		err = a.unremembered(m, o, first, copies)
	}
	if err != nil {
		return nil, ledgerFault(location, err)
	}
	for _, err := range o.Ledger.Damaged() {
		a.Note("millrace: %v", err)
	}
	a.Remember(o)
	return o, nil
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

// Remember keeps the newest checkpoint of the ledger, so that a later command
// notices a vault that was set back. Where the state folder cannot be written,
// the command goes on and says so.
func (a *App) Remember(o *Vault) {
	if err := o.memory.Keep(o.Config, o.Ledger.Signed()); err != nil {
		a.Note("millrace: %v; a later command could not notice a rollback", err)
	}
}

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
