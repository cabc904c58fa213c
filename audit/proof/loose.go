package proof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-backup/millrace/audit/proof/whole"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// What the ledger does not name: heartbeats, snapshots of the catalog, copies of points.
// Snapshots and copies are signed; a heartbeat is its name.

// snapshot is a snapshot of the catalog whose signature holds.
type snapshot struct {
	name string
	at   ledger.Reached
	root events.Hash
}

func (s snapshot) mark() ledger.Mark { return ledger.Mark{Size: s.at.Size, Root: s.root} }

// heartbeats finds out which jobs live.
func (p *pass) heartbeats(ctx context.Context) error {
	var err error
	p.alive, err = p.beating(ctx, p.heartbeat)
	for j := range p.alive {
		p.r.RunningJobs = append(p.r.RunningJobs, j)
	}
	slices.SortFunc(p.r.RunningJobs, func(a, b id.Job) int { return bytes.Compare(a[:], b[:]) })
	return err
}

// beating lists the jobs that have a heartbeat, each of which is shown to check.
func (p *pass) beating(ctx context.Context, check func(context.Context, store.Entry) error) (map[id.Job]bool, error) {
	alive := map[id.Job]bool{}
	for e, err := range p.o.Store.List(ctx, "leases/") {
		if err != nil {
			return nil, err
		}
		j, ok := beatOf(e.Name)
		if ok {
			alive[j] = true
		}
		if check == nil {
			continue
		}
		if !ok {
			p.found(Finding{Object: e.Name, What: "no heartbeat by its name", State: Extra, Err: fmt.Errorf("nothing explains it: %w", vault.ErrDamaged)})
		} else if err := check(ctx, e); err != nil {
			return nil, err
		}
	}
	return alive, nil
}

// beatOf takes the name of a heartbeat apart; docs/format/lease.md.
func beatOf(name string) (id.Job, bool) {
	j, ok := whole.Job(name)
	number := name[strings.LastIndexByte(name, '/')+1:]
	_, err := strconv.ParseUint(number, 10, 64)
	return j, ok && err == nil && len(number) == 20
}

func (p *pass) heartbeat(ctx context.Context, e store.Entry) error {
	b, err := store.ReadAll(ctx, p.o.Store, e.Name, 4<<10)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil // the next one has come
	case errors.Is(err, store.ErrLength) || err == nil && string(b) != e.Name:
		j, _ := beatOf(e.Name)
		p.found(Finding{Object: e.Name, What: what(e.Name), Job: j, Err: fmt.Errorf("it does not hold its name: %w", vault.ErrDamaged)})
	case err != nil:
		return err
	}
	p.count(e.Name, e.Size)
	return nil
}

// snapshots checks what can be had again from the ledger.
func (p *pass) snapshots(ctx context.Context) error {
	for e, err := range p.o.Store.List(ctx, "catalogs/") {
		if err != nil {
			return err
		}
		at, root, err := saved.Check(ctx, p.o.Config, p.o.Store, e.Name)
		if errors.Is(err, store.ErrNotFound) {
			continue // a newer one has come
		}
		if err != nil && !wrong(err) {
			return err
		}
		p.count(e.Name, e.Size)
		p.advance(e.Size)
		if err != nil {
			p.found(Finding{Object: e.Name, What: what(e.Name), Err: err})
			continue
		}
		if len(p.snaps) < maxSnapshots {
			p.snaps = append(p.snaps, snapshot{e.Name, at, root})
		}
	}
	for e, err := range p.o.Store.List(ctx, "points/") {
		if err != nil {
			return err
		}
		signed, err := saved.CheckCopy(ctx, p.o.Config, p.o.Vault, p.o.Store, e.Name)
		if errors.Is(err, store.ErrNotFound) {
			continue // a snapshot has it now
		}
		if err != nil && !wrong(err) {
			return err
		}
		p.count(e.Name, e.Size)
		if err != nil {
			p.found(Finding{Object: e.Name, What: what(e.Name), Err: err})
		} else if !signed {
			p.bare = append(p.bare, e.Name)
		}
	}
	return nil
}

// copies judges the copies of points without a signature: earlier versions wrote such, and so
// does whoever wants to change one unseen.
func (p *pass) copies(context.Context) error {
	for _, name := range p.bare {
		switch {
		case p.signs:
			p.found(Finding{Object: name, What: what(name), Err: fmt.Errorf("its signature has gone: all versions that wrote to this vault sign: %w", vault.ErrDamaged)})
		case p.o.Vault == nil:
			p.note("%s was written by an earlier version, which did not sign: only with the password can damage be seen", name)
		}
	}
	return nil
}

// strays notes what is in the place of the vault and is no object.
func (p *pass) strays(ctx context.Context) error {
	lines, err := whole.Strays(ctx, p.o.Store)
	p.r.Notes = append(p.r.Notes, lines...)
	return err
}

// maxSnapshots bounds what is compared with the ledger; a vault has three.
const maxSnapshots = 64

// keys checks every key as far as that goes without its secret, and that those there are
// which the ledger says.
func (p *pass) keys(ctx context.Context) error {
	there := map[id.Key]bool{}
	for k, err := range vault.ReadKeys(ctx, p.o.Store, p.o.Config) {
		if err != nil && !wrong(err) {
			return err
		}
		if err != nil {
			p.found(Finding{Object: objectOf(err, "keys/"), What: "a key that opens the vault", Err: err})
			continue
		}
		there[k.ID] = true
	}
	if p.keyed || p.r.Segments == 0 {
		return nil // objects compares them with what the ledger names
	}
	if p.o.Vault == nil {
		p.note("the vault was made by a version that did not name keys in clear headers: that one is missing can be seen only with the password")
		return nil
	}
	for k := range p.state.Keys {
		name := vault.KeyName(k)
		if _, err := store.Stat(ctx, p.o.Store, name); errors.Is(err, store.ErrNotFound) {
			p.found(Finding{Object: name, What: what(name), State: Missing, Err: fmt.Errorf("it is missing: a fact says that it was added: %w", vault.ErrDamaged)})
		}
	}
	for k := range there {
		if _, known := p.state.Keys[k]; !known && len(p.state.Keys) > 0 {
			name := vault.KeyName(k)
			p.found(Finding{Object: name, What: what(name), State: Extra, Err: fmt.Errorf("no fact says that it was added: %w", vault.ErrDamaged)})
		}
	}
	return nil
}

// objectOf is the name in an error's text that begins with a folder.
func objectOf(err error, folder string) string {
	_, rest, ok := strings.Cut(err.Error(), folder)
	end := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789", r) })
	if !ok || end <= 0 {
		return folder
	}
	return folder + rest[:end]
}
