package known

import (
	"context"
	"errors"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

// maxListed is how many chunks a job may be told to distrust for one guest. Of packs
// with more it distrusts all.
const maxListed = 2000

// Listed are the places that a parent's tables list and nothing new may refer to, in
// packs that are not distrusted; those with too many become so.
func (x Index) Listed(ctx context.Context, v *vault.Vault, tables []events.TableRef, distrusted map[flow.PackID]bool) (out []flow.Place, err error) {
	listed, err := heal.Listed(ctx, v, tables, x.bad)
	for k, chunks := range listed {
		p := flow.PackID{Job: k.Job, Name: k.Pack}
		switch {
		case distrusted[p]:
		case len(out)+len(chunks) > maxListed:
			distrusted[p] = true
		default:
			for _, c := range chunks {
				out = append(out, flow.Place{Pack: p, Chunk: c})
			}
		}
	}
	return out, err
}

// Heal has points that were found damaged read what has been stored again since, by
// whichever job, and appends that as facts of a job. folder is that of the host's
// chunk index, which it brings up to date; s is folded on. Where no listed point
// is marked as damaged it reads nothing.
func Heal(ctx context.Context, v *vault.Vault, l *ledger.Ledger, s *catalog.State, job id.Job, folder string) (done heal.Replaced, err error) {
	for range 3 { // others may be faster
		if done, err = tryHeal(ctx, v, l, s, job, folder); !errors.Is(err, heal.ErrStale) {
			break
		}
	}
	return done, err
}

func tryHeal(ctx context.Context, v *vault.Vault, l *ledger.Ledger, s *catalog.State, job id.Job, folder string) (none heal.Replaced, err error) {
	if err := s.CatchUp(l.Records(ctx, s.Next)); err != nil || !heal.Needed(s) {
		return none, err
	}
	now, err := Refresh(ctx, v, s, folder)
	if err != nil {
		return none, err
	}
	index, err := chunkindex.Open(now.Files)
	if err != nil {
		return none, err
	}
	defer index.Close()
	w := heal.Work{Vault: v, Ledger: l, Job: job, Domain: v.Config.DefaultDomain, Index: index}
	return w.Replace(ctx, s)
}
