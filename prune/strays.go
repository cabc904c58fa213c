package prune

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault/store"
)

// strays are objects that no fact names: of jobs that died before they could say
// what they had stored.
func (l *look) strays() error {
	named := map[string]bool{}
	for _, p := range l.s.Points {
		for _, t := range p.Names() {
			named[table.ObjectName(t)] = true
		}
	}
	for _, folder := range []string{"packs/", "tables/"} {
		for e, err := range l.v.Store.List(l.ctx, folder) {
			if err != nil {
				return fmt.Errorf("list %s of the vault: %w", folder[:len(folder)-1], err)
			}
			l.stray(e, folder, named)
		}
	}
	return nil
}

func (l *look) stray(e store.Entry, folder string, named map[string]bool) {
	if named[e.Name] {
		return
	}
	var job id.Job
	var object id.Object
	where, name := path.Split(strings.TrimPrefix(e.Name, folder))
	if job.UnmarshalText([]byte(strings.TrimSuffix(where, "/"))) != nil || object.UnmarshalText([]byte(name)) != nil {
		l.plan.Strange = append(l.plan.Strange, e.Name)
		return
	}
	if folder == "packs/" && l.s.Packs[catalog.PackKey{Job: job, Pack: object}] != nil || l.s.Tables[object] != 0 || l.retired(folder, object) {
		return
	}
	j := l.s.Jobs[job]
	switch {
	case j == nil || j.Open():
	case folder == "packs/":
		l.plan.Packs = append(l.plan.Packs, events.PackName{Job: job, Pack: object, Size: e.Size})
	default:
		l.plan.Tables = append(l.plan.Tables, events.TableRef{Job: job, Name: object, Size: e.Size})
	}
}

// retired reports whether an object that is not in the catalog was retired before
// and waits to be deleted.
func (l *look) retired(folder string, object id.Object) bool {
	for _, r := range l.s.Retired {
		if folder == "packs/" && slices.ContainsFunc(r.Packs, func(p events.PackName) bool { return p.Pack == object }) {
			return true
		}
	}
	return false
}
