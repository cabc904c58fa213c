package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/witness"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Seen is what somebody remembers of a vault.
type Seen struct {
	By string // for people: the file that says so
	ledger.Checkpoint
}

func (a *App) witnesses() (all []witness.Place) {
	for _, path := range a.Settings.Witness {
		all = append(all, witness.Place(path))
	}
	return all
}

// witnessed reads what the witnesses have seen of a vault. One that cannot be read, or
// that holds something else, is an error.
func (a *App) witnessed(cfg vault.Config) (all []Seen, err error) {
	for _, p := range a.witnesses() {
		c, err := p.Read(cfg)
		if err != nil {
			return nil, &fault.Fault{Op: "read witness", Object: p.File(cfg.ID), Err: err,
				Remedy: "find out what changed the file; without it a vault that was set back may go unnoticed"}
		}
		if c == nil {
			a.Note("millrace: witness %s has seen nothing of vault %s yet", p.File(cfg.ID), cfg.ID)
			continue
		}
		all = append(all, Seen{"witness " + p.File(cfg.ID), *c})
	}
	return all, nil
}

// openLedger opens the ledger of a vault and holds it against what was seen of it. With
// --accept-rollback a vault that is not the continuation of that is gone on with, which
// is written down before anything else is done.
func (a *App) openLedger(ctx context.Context, o *Vault, f found) error {
	remembered, copies, err := f.memory.seen(f.cfg)
	if err != nil {
		return err
	}
	from, err := saved.Reached(ctx, f.st)
	if err != nil {
		return fault.At("read ledger of vault", f.location, err)
	}
	var refused []events.RollbackAccepted
	options := ledger.Options{Cache: f.memory.Cache(o.ID, "ledger"), Remembered: remembered, From: from, Now: a.Now}
	o.Ledger, err = ledger.Open(ctx, o.Vault, options)
	if err == nil && remembered == nil {
		err = a.unremembered(f.memory, o, f.first, copies)
	}
	if ledger.Refused(err) && a.Settings.AcceptRollback {
		c := ledger.Checkpoint{Seq: copies}
		if remembered != nil {
			c = *remembered
		}
		refused = append(refused, refusal(Seen{"state", c}, err))
		// The caches are of a history that is given up.
		if err := os.RemoveAll(filepath.Dir(options.Cache)); err != nil {
			return fault.At("clear the caches of", o.Location, err)
		}
		options.Remembered, options.From = nil, ledger.Reached{}
		o.Ledger, err = ledger.Open(ctx, o.Vault, options)
	}
	if err != nil {
		return ledgerFault(f.location, err)
	}
	seen, err := a.witnessed(f.cfg)
	if err != nil {
		return err
	}
	for _, s := range seen {
		err := o.Ledger.Compare(ctx, s.Checkpoint)
		if ledger.Refused(err) && a.Settings.AcceptRollback {
			refused = append(refused, refusal(s, err))
			continue
		}
		if err != nil {
			return ledgerFault(f.location, fmt.Errorf("%s: %w", s.By, err))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return a.accept(ctx, o, refused)
}

func refusal(s Seen, err error) events.RollbackAccepted {
	return events.RollbackAccepted{SeenBy: s.By, SeenSeq: s.Seq, SeenSize: s.Size, SeenRoot: s.Root, Forked: errors.Is(err, ledger.ErrForked)}
}

// accept writes down that somebody goes on with another history, signs, and makes memory
// and witnesses follow. A crash after the append leaves facts, and a memory that refuses
// the vault once more: the command is then given again, and says so again.
func (a *App) accept(ctx context.Context, o *Vault, refused []events.RollbackAccepted) error {
	next, size, root := o.Ledger.Head()
	state, err := o.Now(ctx)
	if err != nil {
		return err
	}
	var facts []events.Fact
	for _, f := range refused {
		f.Host, _ = os.Hostname()
		f.By = User()
		f.Seq, f.Size, f.Root = next, size, root
		facts = append(facts, f)
	}
	if _, err := o.Ledger.Append(ctx, id.Job{}, append(facts, state.Hashed(size)), nil, nil); err != nil {
		return fault.At("write down that the rollback is accepted, in vault", o.Location, err)
	}
	c, err := o.Ledger.Checkpoint(ctx)
	if err != nil {
		return fault.At("sign ledger of vault", o.Location, err)
	}
	if err := o.memory.replace(c); err != nil {
		return err
	}
	for _, p := range o.witness {
		if err := p.Replace(c); err != nil {
			return fault.At("write witness", string(p), err)
		}
	}
	for _, f := range refused {
		a.Note("millrace: %s had seen segment %d (size %d): the vault, which ends at segment %d, is gone on with; a fact says so", f.SeenBy, f.SeenSeq, f.SeenSize, next)
	}
	return nil
}

// Remember keeps the newest checkpoint of the ledger, on this machine and with the
// witnesses, so that a later command notices a vault that was set back. Where one of them
// cannot be written, the command goes on and says so; see [Vault.Unwitnessed].
func (a *App) Remember(o *Vault) {
	c := o.Ledger.Signed()
	if err := o.memory.Keep(o.Config, c); err != nil {
		a.Note("millrace: %v; a later command could not notice a rollback", err)
	}
	o.unkept = nil
	for _, p := range o.witness {
		if err := p.Write(o.Config, c); err != nil {
			o.unkept = errors.Join(o.unkept, err)
			a.Note("millrace: %v", err)
		}
	}
}

// Unwitnessed is the error of a command that did its work, and could not tell a witness.
func (o *Vault) Unwitnessed() error {
	if o.unkept == nil {
		return nil
	}
	return &fault.Fault{Code: "witness", Op: "witness the ledger of vault", Object: o.Location, Err: o.unkept}
}

// Witness writes the checkpoint of a vault that was just made.
func (a *App) Witness(cfg vault.Config, c ledger.Checkpoint) error {
	for _, p := range a.witnesses() {
		if err := p.Write(cfg, c); err != nil {
			return &fault.Fault{Code: "witness", Op: "witness the ledger of vault", Object: cfg.ID.String(), Err: err}
		}
	}
	return nil
}

// Clear is a vault as it is looked at from outside: with the password if there is one,
// and with nothing read of its ledger.
type Clear struct {
	Config   vault.Config
	Store    store.Store
	Vault    *vault.Vault // nil: without the password
	WrongKey error        // the password opens no key that is there
	Location string       // canonical
	Seen     []Seen       // by this machine and the witnesses
	Copies   uint64       // segments of which this machine has copies, if it remembers no checkpoint
	Cache    string       // where copies of segments are
}

// OpenClear finds the vault of the settings and opens it with the password, if the
// settings say where that is; nobody is asked for one. Keys that are damaged are no error
// here: whoever calls this finds out what is wrong with them.
func (a *App) OpenClear(ctx context.Context, without bool) (*Clear, error) {
	f, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	remembered, copies, err := f.memory.seen(f.cfg)
	if err != nil {
		return nil, err
	}
	c := &Clear{Config: f.cfg, Store: f.st, Location: f.canonical, Copies: copies, Cache: f.memory.Cache(f.cfg.ID, "ledger")}
	if c.Seen, err = a.witnessed(f.cfg); err != nil {
		return nil, err
	}
	if remembered != nil {
		c.Seen = append(c.Seen, Seen{"this machine", *remembered})
	}
	s := a.Settings
	if without || s.PasswordFile == "" && s.PasswordCommand == "" && s.PasswordFD < 0 {
		return c, nil
	}
	password, err := a.Password(ctx, false)
	if err != nil {
		return nil, err
	}
	c.Vault, err = vault.Open(ctx, f.st, password)
	clear(password)
	switch {
	case errors.Is(err, vault.ErrWrongKey):
		c.WrongKey = fault.At("open vault", f.location, err)
	case err != nil && !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer):
		return nil, fault.At("open vault", f.location, err)
	case err != nil:
		a.Note("millrace: %v", err)
	}
	return c, nil
}

// Shorter is the error of a ledger that ends at segment next although this machine has
// copies of more.
func (a *App) Shorter(c *Clear, next uint64) error {
	return Memory{a.Settings.State}.shorter(c.Config.ID, next, c.Copies)
}

// Witnessed keeps a checkpoint that was just proven.
func (a *App) Witnessed(c *Clear, signed ledger.Checkpoint) {
	if err := (Memory{a.Settings.State}).Keep(c.Config, signed); err != nil {
		a.Note("millrace: %v; a later command could not notice a rollback", err)
	}
	for _, p := range a.witnesses() {
		if err := p.Write(c.Config, signed); err != nil {
			a.Note("millrace: %v", err)
		}
	}
}
