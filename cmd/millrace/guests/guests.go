// Package guests finds what a backup is to protect: the guests at the sources that a
// command line names ([Inspect]), or those that a backup set means ([Resolve]).
//
// A source is folder:PATH, PATH or qemu:QMP-SOCKET, and is one guest. In a set, the last element of the
// path may have the wildcards * and ?; then every image and every folder with images
// that it stands for is a guest, looked for each time. Entries whose name begins with a
// dot are listed only if the wildcard does, and links never: who may write into that folder does
// not choose what a backup reads elsewhere.
//
// What is there and cannot be read is a guest that failed, with the reason, and stops no
// other. A folder that is not there, or in which nothing is found, is told as a source that failed:
// an export disk that is not mounted is no reason to be content with the rest.
//
// The package writes nothing; what it found is recorded by the job.
package guests

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/cmd/millrace/drivers"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/id"
)

// Options are what a command line says of the guests.
type Options struct {
	Vault   id.Vault
	GuestID string   // of the guest, when it has one from elsewhere
	Disks   []string // only these, by key
	Exclude []string // without these
	Bare    bool     // without the trees of exported machines
}

// Inspect looks at every source. One that is there and cannot be read is a guest
// that failed, and so is one of several that is not there; a single one that is not
// there is a mistake on the command line.
func (o Options) Inspect(ctx context.Context, sources []string) (guests []hypervisor.Guest, failed []events.GuestOutcome, err error) {
	var given id.Guest
	if o.GuestID != "" {
		if err := given.UnmarshalText([]byte(o.GuestID)); err != nil || len(sources) > 1 {
			return nil, nil, fault.Usage("--guest-id %s: it is a UUID, for one source", o.GuestID)
		}
	}
	for _, s := range sources {
		source, err := drivers.Parse(s)
		if err != nil {
			return nil, nil, err
		}
		path := source.Path
		found, err := source.Inspect(ctx, given, o.Vault)
		mistaken := errors.Is(err, fs.ErrNotExist) || errors.Is(err, hypervisor.ErrNoDisks)
		if ctx.Err() != nil || mistaken && len(sources) == 1 {
			return nil, nil, fault.At("inspect", path, err)
		}
		if err != nil {
			failed = append(failed, outcome(id.NewGuest(o.Vault, path), filepath.Base(path), fault.At("inspect", path, err)))
			continue
		}
		for _, g := range found {
			chosen, err := o.choose(g)
			if err != nil {
				return nil, nil, err
			}
			guests = append(guests, chosen)
		}
	}
	for n, g := range guests {
		for _, other := range guests[:n] {
			if g.ID == other.ID {
				return nil, nil, fault.Usage("%s and %s are the same guest", other.Source, g.Source)
			}
		}
	}
	return guests, failed, nil
}

// outcome is that of a guest for which nothing was done.
func outcome(guest id.Guest, name string, err error) events.GuestOutcome {
	f := fault.Of(err)
	return events.GuestOutcome{Guest: guest, Name: name, Outcome: "failed", Code: f.Code, Op: f.Op, Object: f.Object, Cause: f.Cause(), Remedy: f.Remedy}
}

// Path is the absolute path of a source. What is no source is a usage error.
func Path(s string) (string, error) {
	source, err := drivers.Parse(s)
	return source.Path, err
}

// choose leaves out disks as asked for; what is left out is recorded.
func (o Options) choose(g hypervisor.Guest) (hypervisor.Guest, error) {
	left := map[string]bool{}
	for _, name := range append(append([]string{}, o.Disks...), o.Exclude...) {
		left[name] = true
	}
	g = keep(g, o.Bare, len(o.Disks)+len(o.Exclude) > 0, func(key string) (bool, string) {
		named := left[key]
		delete(left, key)
		return !(len(o.Disks) > 0 && !slices.Contains(o.Disks, key) || named && slices.Contains(o.Exclude, key)), "left out by the user"
	})
	for name := range left {
		return g, fault.Usage("guest %s has no disk %q", g.Name, name)
	}
	if len(g.Disks) == 0 {
		return g, fault.Usage("no disk of guest %s is left to back up", g.Name)
	}
	return g, nil
}

// keep leaves out the disks that in does not want, and with them, or if bare, the tree
// of an exported machine.
func keep(g hypervisor.Guest, bare, chosen bool, in func(key string) (bool, string)) hypervisor.Guest {
	switch {
	case bare:
		export.Drop(&g, "left out with --no-checkpoints")
	case chosen:
		export.Drop(&g, "left out, as disks were chosen")
	}
	var kept []hypervisor.Disk
	for _, d := range g.Disks {
		if ok, why := in(d.Key); ok {
			kept = append(kept, d)
		} else {
			g.Unprotected = append(g.Unprotected, hypervisor.Unprotected{Key: d.Key, Reason: why})
		}
	}
	g.Disks = kept
	return g
}
