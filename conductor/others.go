package conductor

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/ledger"
	"go.uber.org/zap"
)

// othersEvery is how long what another job has written down stays unseen.
const othersEvery = 2 * time.Second

// followOthers reads what other jobs write while this one runs: what they have
// stored need not be stored again, and if one has taken over, it is best to stop at
// once. It costs one question to the vault each time: whether there is a next
// segment.
func (j *job) followOthers(ctx context.Context) {
	others := known.Others{Vault: j.o.Vault, Domain: j.work.Domain, Job: j.id, Folder: filepath.Join(j.folder, known.OthersFolder)}
	watch := ledger.Guard{Job: j.id, Next: j.o.Catalog.Next, Check: func(r events.Record) error {
		if err := trust.Shredded(r, j.work.Domain); err != nil {
			return err
		}
		others.Heed(r)
		return nil
	}}
	for ctx.Err() == nil {
		err := j.o.Ledger.Show(ctx, &watch)
		if errors.Is(err, ledger.ErrFenced) || errors.Is(err, ledger.ErrShredded) {
			j.stop(flow.AsFault(flow.VaultFault("append to the ledger", j.o.Location, err), "conductor"))
			return
		}
		if err == nil {
			_, err = others.Index(ctx)
		}
		if err != nil && ctx.Err() == nil { // costs space; who must write will say what is wrong
			j.log.Warn("follow other jobs", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(othersEvery/2 + rand.N(othersEvery)): // not all hosts at once
		}
	}
}
