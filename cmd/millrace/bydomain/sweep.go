package bydomain

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/domain"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
)

// record is how package domain has its facts appended.
func record(a *session.App, o *session.Vault) domain.Record {
	return func(ctx context.Context, g *ledger.Guard, in, out []ledger.ObjectRef, facts ...events.Fact) error {
		_, err := a.Guarded(ctx, o, g, in, out, facts...)
		return err
	}
}

// Domains is what package domain works with, on the state of the whole ledger.
func Domains(ctx context.Context, a *session.App, o *session.Vault) (domain.Work, error) {
	s, err := o.Now(ctx)
	return domain.Work{Vault: o.Vault, State: s, Ledger: o.Ledger, Record: record(a, o), By: session.User()}, err
}

// Sweep destroys what opens domains that were shredded, in the vault and on this
// host, if a shredding that died has left any, another host has shredded, or somebody has
// put old objects back. Every command that writes to the vault calls it.
func Sweep(ctx context.Context, a *session.App, o *session.Vault) error {
	w, err := Domains(ctx, a, o)
	if err != nil {
		return err
	}
	n, err := w.Sweep(ctx)
	if n > 0 {
		a.Note("millrace: %d objects with keys of shredded guests were in the vault, and are destroyed", n)
	}
	if err != nil {
		return fault.At("destroy keys of shredded guests in vault", o.Location, err)
	}
	for _, d := range w.State.Domains {
		if _, err := os.Lstat(cache(o, d.ID)); d.Shredded != 0 && err == nil {
			if err := Forget(o, d.Keyed.Guest, d.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func cache(o *session.Vault, d id.Domain) string {
	return filepath.Join(o.Cache("domains"), d.String())
}

// Index is the folder of this host's chunk index of a domain.
func Index(o *session.Vault, d id.Domain) string {
	if d.IsZero() || d == o.Config.DefaultDomain {
		return o.Cache("index")
	}
	return cache(o, d)
}

// Damaged lists the domains of which something was withdrawn and that can be read.
func Damaged(o *session.Vault, s *catalog.State) []id.Domain {
	found := map[id.Domain]bool{}
	for w := range s.Withdrawn {
		if own := s.Domains[w.Domain]; w.Domain == o.Config.DefaultDomain || own != nil && own.Shredded == 0 {
			found[w.Domain] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b id.Domain) int { return slices.Compare(a[:], b[:]) })
}

// Forget removes what this host keeps of a guest's own domains: hashes of the
// blocks of its disks, and the index of its chunks. The folder of a domain goes last, for
// it is by that that a later command sees that there was something.
func Forget(o *session.Vault, g id.Guest, domains ...id.Domain) error {
	files, err := filepath.Glob(filepath.Join(o.Cache(sidecar.Folder), g.String()+"-*"))
	for _, f := range files {
		if err == nil {
			err = os.Remove(f)
		}
	}
	for _, d := range domains {
		if err == nil {
			err = os.RemoveAll(cache(o, d))
		}
	}
	return fault.At("remove what this host keeps of guest", id.Short(g), err)
}
