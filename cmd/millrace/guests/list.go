package guests

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/cmd/millrace/drivers"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/images"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

// seen is a guest that a source listed: the guest, or why it could not be looked at.
type seen struct {
	selection.Candidate
	guest hypervisor.Guest
	err   error
}

// errNothing: a wildcard stood for no guest.
var errNothing = errors.New("no image and no folder with images is there")

// lister looks into the sources of a set.
type lister struct {
	Options
	known map[string]*catalog.Guest // what the vault knows, by source
	found []seen
}

// source looks into one source and says what was found. The error is what a job has
// to report of the source as a whole.
func (l *lister) source(ctx context.Context, s events.SetSource) (events.SourceListed, error) {
	out := events.SourceListed{Source: s.Source, Tags: s.Tags}
	err := l.look(ctx, s, &out)
	if err != nil {
		out.Cause = err.Error()
	}
	return out, err
}

func (l *lister) look(ctx context.Context, s events.SetSource, out *events.SourceListed) error {
	source, err := drivers.Parse(s.Source)
	if err != nil {
		return err
	}
	dir, glob := filepath.Split(source.Path)
	if err := Globbed(s.Source); err != nil {
		return err
	}
	if !selection.HasWildcard(glob) {
		return l.one(ctx, source, s.Tags, out, false)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") != strings.HasPrefix(glob, ".") || !selection.Match(glob, name) {
			continue
		}
		if len(l.found) >= selection.MaxCandidates {
			return fmt.Errorf("more than %d guests in the sources of one set: make several sets of it", selection.MaxCandidates)
		}
		whole := filepath.Join(dir, name)
		if socket := e.Type()&fs.ModeSocket != 0; socket != (source.Driver == qemu.Name) {
			out.Passed++
			continue
		}
		if !e.IsDir() && source.Driver == drivers.Folder {
			m := images.At(name, whole)
			link := e.Type()&fs.ModeSymlink != 0
			reason := ""
			if !link {
				reason, err = m.Refuse(dir, e)
			}
			if link || reason != "" && err == nil && l.known[whole] == nil {
				out.Passed++
				continue
			}
		}
		if err := l.one(ctx, drivers.Source{Driver: source.Driver, Path: whole}, s.Tags, out, true); err != nil {
			return err
		}
	}
	if out.Guests == 0 {
		return errNothing
	}
	return nil
}

// Globbed refuses a source with wildcards where none may be.
func Globbed(source string) error {
	path, err := Path(source)
	if dir, _ := filepath.Split(path); err == nil && selection.HasWildcard(dir) {
		return fault.Usage("source %s: only the last element of its path may have wildcards", source)
	}
	return err
}

// one looks at what may be a guest. Only the end of the job's time is an error, and what
// is not there although it was named.
func (l *lister) one(ctx context.Context, source drivers.Source, tags []string, out *events.SourceListed, listed bool) error {
	path := source.Path
	found, err := source.Inspect(ctx, id.Guest{}, l.Vault)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	known := l.known[path]
	if listed && known == nil && errors.Is(err, hypervisor.ErrNoDisks) {
		out.Passed++
		return nil
	}
	if !listed && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, hypervisor.ErrNoDisks)) {
		return err
	}
	if err != nil {
		st, statErr := os.Lstat(path)
		c := selection.Candidate{Guest: id.NewGuest(l.Vault, path), Name: filepath.Base(path), Source: path, Certain: statErr == nil && st.Mode().IsRegular()}
		if known != nil {
			c.Guest, c.Name, c.Certain = known.ID, known.Name, true
		}
		err = fault.At("inspect", path, err)
		c.Cause = fault.Of(err).Cause()
		out.Guests++
		l.add(seen{Candidate: c, err: err}, tags)
		return nil
	}
	for _, g := range found {
		out.Guests++
		l.add(seen{Candidate: selection.Candidate{Guest: g.ID, Name: g.Name, Source: g.Source}, guest: g}, tags)
	}
	return nil
}

// add enters a guest. One that two sources list has the tags of both.
func (l *lister) add(s seen, tags []string) {
	for n := range l.found {
		if f := &l.found[n]; f.Source == s.Source && f.Guest == s.Guest {
			for _, t := range tags {
				if !slices.Contains(f.Tags, t) {
					f.Tags = append(f.Tags, t)
				}
			}
			return
		}
	}
	s.Tags = slices.Clone(tags)
	l.found = append(l.found, s)
}

// Resolve asks the sources of a set for their guests and chooses. What of it failed,
// selectors that took nothing included, is for the job to record.
func (o Options) Resolve(ctx context.Context, s *catalog.State, set *sets.Set, d *selection.Definition) (out Found, err error) {
	l := &lister{Options: o, known: map[string]*catalog.Guest{}}
	for _, g := range s.Guests {
		l.known[g.Source] = g
	}
	var listed []events.SourceListed
	for _, source := range set.Fact.Sources {
		was, err := l.source(ctx, source)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if err != nil {
			out.Fail(id.Guest{}, source.Source, fault.At("list guests of", source.Source, err))
		}
		listed = append(listed, was)
	}
	var candidates []selection.Candidate
	for _, f := range l.found {
		candidates = append(candidates, f.Candidate)
	}
	r := d.Resolve(candidates, set.Guests, set.RanIn != 0)
	out.Fact = r.Fact
	out.Fact.Sources = listed
	for n, choice := range r.Fact.Guests {
		f := &l.found[n]
		switch {
		case choice.Selected:
			out.take(l, f, d, r.Fact.Guests)
		case slices.Contains(r.Unsettled, n):
			out.Fail(f.Guest, f.Name, f.err)
		}
	}
	for _, idle := range r.Idle {
		f := &fault.Fault{Code: "selects-nothing", Op: "select guests by", Object: idle.Selector, Err: errors.New("no source of the set lists such a guest")}
		name := idle.Selector
		if !idle.Guest.IsZero() {
			f.Code = "guest-gone"
			if g := s.Guests[idle.Guest]; g != nil {
				name = g.Name
				f.Err = fmt.Errorf("no source of the set lists it; it was last seen at %s", g.Source)
			}
		}
		out.Fail(idle.Guest, name, f)
	}
	return out, nil
}

// Found is what a set protects at this moment.
type Found struct {
	Guests []hypervisor.Guest
	Failed []events.GuestOutcome
	Fact   events.GuestsSelected
}

// Fail enters a guest, or something else that the set means, for which nothing can be done.
func (out *Found) Fail(guest id.Guest, name string, err error) {
	out.Failed = append(out.Failed, outcome(guest, name, err))
}

// take enters a selected guest with the disks that the set wants.
func (out *Found) take(l *lister, f *seen, d *selection.Definition, choices []events.GuestChoice) {
	err := f.err
	for n, other := range choices {
		if err == nil && other.Selected && other.Guest == f.Guest && &l.found[n] != f {
			err = fault.At("inspect", f.Source, fmt.Errorf("%s is the same guest: leave one of them out of the set, as nobody can tell which is the one that runs", other.Source))
		}
	}
	if err != nil {
		out.Fail(f.Guest, f.Name, err)
		return
	}
	g := keep(f.guest, l.Bare, len(d.Disks)+len(d.ExcludeDisks) > 0, d.Disk)
	if len(g.Disks) == 0 {
		f := &fault.Fault{Code: "selects-nothing", Op: "select disks of", Object: g.Name, Err: errors.New("the set leaves out every disk of the guest")}
		out.Fail(g.ID, g.Name, f)
		return
	}
	out.Guests = append(out.Guests, g)
}
