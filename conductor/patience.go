package conductor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/patient"
	"go.uber.org/zap"
)

// patience is how the conductor itself waits for the vault, as workers do for theirs.
func (j *job) patience() *patient.Patience {
	return &patient.Patience{
		IO: j.o.WaitIO, Gone: j.o.WaitGone,
		Probe: func(ctx context.Context) error {
			_, err := trust.SameVault(ctx, j.o.Vault.Store, j.o.Vault.ID)
			return err
		},
		Tell: func(what string) {
			j.log.Warn("the conductor waits for the vault", zap.String("cause", what))
			if j.o.Observe != nil && what != "" {
				u := j.look(false, nil)
				u.Waits, u.Report.Waits = what, what
				j.o.Observe(u)
			}
		},
	}
}

// patiently makes op until it succeeds, as long as the vault may be waited for and
// nobody interrupts. Of a job that stops already nothing is waited for.
func (j *job) patiently(ctx context.Context, stopping bool, op func() error) error {
	if stopping {
		return op()
	}
	return j.patience().Do(ctx, op)
}

// otherVault looks, before a job is stopped for what a worker saw in the vault,
// whether it is still that vault: the objects of another one look damaged.
func (j *job) otherVault(f *flow.Fault) *flow.Fault {
	if f.Class != flow.Corrupt && f.Code != "no-store" && f.Code != "vault-io" {
		return f
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := trust.SameVault(ctx, j.o.Vault.Store, j.o.Vault.ID); errors.Is(err, store.ErrOther) {
		other := flow.AsFault(flow.VaultFault(f.Op, f.Object, fmt.Errorf("%w (seen first: %s)", err, f.Cause)), f.Stage)
		other.Stage = f.Stage
		return other
	}
	return f
}

// waits is what a worker waits for, if one does.
func waits(stages []crew.Stage) string {
	for _, s := range stages {
		if s.Waits != "" {
			return s.Waits
		}
	}
	return ""
}
