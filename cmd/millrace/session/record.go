package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault/store"
)

// maxOutbox bounds what is read of one file of the outbox.
const maxOutbox = 16 << 20

// Recorded says where in the ledger the facts of a command stand; zero if they
// wait in the outbox.
type Recorded struct{ Position, Checkpoint uint64 }

// Record appends the facts of a command that reads the vault, signs, and
// remembers. Reading a vault needs no permission to write to it: if it cannot be
// written to, the facts wait in the state folder for the next command that can.
func (a *App) Record(ctx context.Context, o *Vault, facts ...events.Fact) (Recorded, error) {
	waiting, files := o.memory.outbox(o.ID)
	where, done, err := a.record(ctx, o, id.Job{}, nil, append(slices.Clone(waiting), facts...), nil, nil)
	if !done && (errors.Is(err, store.ErrReadOnly) || errors.Is(err, store.ErrFull)) {
		file, keepErr := o.memory.putOutbox(o.ID, a.events(facts))
		if keepErr != nil {
			return Recorded{}, keepErr
		}
		a.Note("millrace: %v; what was done is noted in %s until the vault can be written to", err, file)
		return Recorded{}, nil
	}
	// A crash before this line appends the same facts once more; every reader
	// takes a fact twice.
	for _, f := range files {
		if done {
			_ = os.Remove(f)
		}
	}
	return where, err
}

// Decide appends facts that are only right as long as nobody else says something
// that the guard refuses; its Next is where the state they were decided on ends.
// They are the facts of a job if there is one. They do not wait in the outbox.
func (a *App) Decide(ctx context.Context, o *Vault, job id.Job, g *ledger.Guard, facts ...events.Fact) (Recorded, error) {
	where, _, err := a.record(ctx, o, job, g, facts, nil, nil)
	return where, err
}

// Guarded appends facts that name objects, as brought in or retired, unless the guard
// refuses, if there is one, and signs them. They do not wait in the outbox.
func (a *App) Guarded(ctx context.Context, o *Vault, g *ledger.Guard, in, out []ledger.ObjectRef, facts ...events.Fact) (Recorded, error) {
	where, _, err := a.record(ctx, o, id.Job{}, g, facts, in, out)
	return where, err
}

// record says also whether the facts stand, which they may although it failed.
func (a *App) record(ctx context.Context, o *Vault, job id.Job, g *ledger.Guard, facts []events.Fact, in, out []ledger.ObjectRef) (where Recorded, done bool, err error) {
	if len(facts) == 0 {
		return where, false, nil
	}
	state, err := o.Now(ctx)
	if err != nil {
		return where, false, err
	}
	_, size, _ := o.Ledger.Head()
	position, err := o.Ledger.AppendGuarded(ctx, job, g, append(slices.Clone(facts), state.Hashed(size)), in, out)
	if err != nil {
		return where, false, fault.At("record what was done in vault", o.Location, err)
	}
	where.Position = position
	c, err := o.Ledger.Checkpoint(ctx)
	if err != nil {
		return where, true, fault.At("sign ledger of vault", o.Location, err)
	}
	a.Remember(o)
	o.Save(ctx)
	where.Checkpoint = c.Size
	return where, true, nil
}

func (a *App) events(facts []events.Fact) []events.Record {
	var out []events.Record
	for _, f := range facts {
		out = append(out, events.NewRecord(a.Now(), id.Job{}, f))
	}
	return out
}

func (m Memory) outboxFolder(v id.Vault) string { return filepath.Join(m.State, "outbox", v.String()) }

// outbox returns the facts that wait for a vault, and the files they are in. What
// cannot be read is left alone: it is a record of the past, and no reason to
// refuse the present.
func (m Memory) outbox(v id.Vault) (facts []events.Fact, files []string) {
	names, err := filepath.Glob(filepath.Join(m.outboxFolder(v), "*.facts"))
	if err != nil {
		return nil, nil
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || info.Size() > maxOutbox {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		records, err := events.DecodeRecords(text)
		if err != nil {
			continue
		}
		for _, r := range records {
			facts = append(facts, r.Fact)
		}
		files = append(files, name)
	}
	return facts, files
}

// putOutbox keeps records until the vault can be written to.
func (m Memory) putOutbox(v id.Vault, records []events.Record) (string, error) {
	text, err := events.EncodeRecords(records)
	if err != nil {
		return "", err
	}
	file := filepath.Join(m.outboxFolder(v), fmt.Sprintf("%s.facts", id.Sum(text)))
	return file, fault.At("note what was done in", file, writeFile(file, text))
}
