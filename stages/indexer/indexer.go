package indexer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/asks"
	"github.com/millrace-backup/millrace/flow/journal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/live"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/patient"
)

const (
	recordEvery = 8                // packs that are durable and not yet in the ledger
	recordAge   = 30 * time.Second // ... or this long
	stalled     = 2 * time.Second  // without a message before we look for lost parcels
)

type indexer struct {
	*state
	w        *flow.Worker
	vault    *vault.Vault
	patience *patient.Patience
	ledger   *ledger.Ledger
	journal  *journal.Journal
	blocks   *sidecar.Keeper
	live     follower
	told     uint64 // position up to which the live copy has been fed

	lastMessage, lastRecord, lastLook time.Time
	tableBytes                        int64
	guard                             ledger.Guard
	trust                             *trust.Packs
	signed                            ledger.Checkpoint
	asks                              asks.Book
	open                              int  // questions of other kinds than those in asks
	dirty                             bool // something changed that progress should tell
}

// follower is told of facts that are in the vault. live.Copy is one.
type follower interface {
	Publish(ctx context.Context, records []events.Record) error
}

// Run is the stage: one process per job. v needs the metadata and signing keys.
// It returns when it is told to drain. p says how long tables that could not be
// written are begun anew; for all else the vault's store has patience of its own.
func Run(ctx context.Context, w *flow.Worker, v *vault.Vault, base Index, p *patient.Patience) error {
	work := &w.Config.Work
	l, err := ledger.Open(ctx, v, ledger.Options{Cache: work.Ledger, Now: time.Now})
	if err != nil {
		return halt(w, flow.VaultFault("open the ledger", work.Vault, err))
	}
	s, err := newState(work, base, w.Arena.Recent(), w.Config.Folder, 0)
	if err != nil {
		return halt(w, err)
	}
	defer func() { _ = s.spool.Close() }()
	x := &indexer{
		state: s, w: w, vault: v, patience: p, ledger: l, told: work.Position, dirty: true,
		live:        live.Copy{JS: w.JetStream(), Stream: address.FactStream(w.Config.Job), Subject: address.FactSubject(w.Config.Job)},
		lastMessage: time.Now(), lastRecord: time.Now(), trust: trust.New(v.Store, work.Domain), blocks: sidecar.NewKeeper(work, w.Config.Folder),
	}
	x.guard = ledger.Guard{Job: w.Config.Job, Next: work.Position, Check: x.trust.Heed}
	defer x.blocks.Close()
	if x.journal, err = journal.Open(filepath.Join(w.Config.Folder, "indexer.journal"), x.replay); err != nil {
		return halt(w, err)
	}
	defer x.journal.Close()
	if err := x.recall(ctx); err != nil {
		return halt(w, err)
	}
	return halt(w, x.loop(ctx))
}

// halt tells the conductor why the stage ends, if it should not.
func halt(w *flow.Worker, err error) error {
	if err != nil {
		w.Alarm(flow.AsFault(err, flow.Indexer))
	}
	return err
}

// replay folds a journaled message into the state, as handle did when it came.
func (x *indexer) replay(msg []byte) error {
	m, err := flow.DecodeMessage(msg)
	if err != nil {
		return err
	}
	if m.Parcel == nil {
		return x.fold(m, decision{})
	}
	how, err := x.accept(m.Parcel)
	if err != nil {
		return err
	}
	return x.fold(m, how)
}

// recall learns from the ledger what a predecessor of this process has written. A
// point that it committed may still be without a signature.
func (x *indexer) recall(ctx context.Context) error {
	committed := false
	for r, err := range x.ledger.Records(ctx, x.work.Position) {
		if err != nil {
			return flow.VaultFault("read the ledger", x.work.Vault, err)
		}
		if r.Job != x.w.Config.Job {
			continue
		}
		switch f := r.Fact.(type) {
		case events.PackStored:
			x.recorded[f.Pack] = true
			if n, ok := x.byName[f.Pack]; ok {
				x.written(n)
			}
		case events.GuestInspected:
			x.each(f.Guest, func(g *guest) { g.recorded = true })
		case events.PointCommitted:
			committed = true
			x.each(f.Guest, func(g *guest) { g.point, g.fault = f.Point, nil })
			x.blocks.Commit(&f, x.left)
		case events.SnapshotReleased:
			x.each(f.Guest, func(g *guest) { g.released = true })
		}
	}
	if committed {
		return x.sign(ctx)
	}
	return nil
}

func (x *indexer) each(g id.Guest, change func(*guest)) {
	for n := range x.guests {
		if x.work.Guests[n].ID == g {
			change(&x.guests[n])
		}
	}
}

func (x *indexer) loop(ctx context.Context) error {
	for {
		d, ok := x.w.TryNext(ctx, 50*time.Millisecond)
		if !ok {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return x.record(ctx) // drained: leave nothing unsaid
		}
		if err := x.turn(ctx, d); err != nil {
			return err
		}
	}
}

// turn handles one message, if there is one, and whatever has become possible.
func (x *indexer) turn(ctx context.Context, d *flow.Delivery) error {
	defer x.w.Meter.Working()()
	if d != nil {
		x.lastMessage = time.Now()
		if err := x.handle(ctx, d); err != nil {
			return err
		}
	}
	x.open = x.openQuestions()
	for n := range x.guests {
		if err := x.advance(ctx, uint32(n)); err != nil {
			return err
		}
	}
	if p := x.asks.Next(); p != nil {
		if err := x.w.Send(ctx, flow.Snapshot, &flow.Message{Ask: p.Ask()}); err != nil {
			return fmt.Errorf("ask for %d parcels again: %w", len(p.List), err)
		}
	}
	if x.unrecorded >= recordEvery || time.Since(x.lastRecord) >= recordAge {
		if err := x.record(ctx); err != nil {
			return err
		}
	}
	if time.Since(x.lastMessage) > stalled && time.Since(x.lastLook) > stalled {
		x.lastLook = time.Now()
		if err := x.findLost(ctx); err != nil {
			return err
		}
	}
	x.report(d == nil)
	return nil
}

// handle takes a message in and settles it.
func (x *indexer) handle(ctx context.Context, d *flow.Delivery) error {
	if p := d.Parcel; p != nil {
		x.w.Meter.In(uint64(p.Length))
	}
	if err := x.learn(ctx, d.Message); err != nil {
		return err
	}
	return d.Done()
}

// learn journals a message and folds it in. When it returns without error the
// message may be acknowledged.
func (x *indexer) learn(ctx context.Context, m *flow.Message) error {
	var how decision
	if p := m.Parcel; p != nil {
		var err error
		how, err = x.accept(p)
		var f *flow.Fault
		switch {
		case errors.As(err, &f) && f.Class == flow.Park: // it says that its guest has failed: keep that of it
			m = &flow.Message{Fault: f}
		case err != nil:
			return err
		case how.again:
			// Delta took for known what the index cannot place. The parcel is
			// read again, and this time nothing is taken as known. A crash before
			// it is asked for leaves one that has not come, which findLost finds.
			e := flow.RecheckEntry{Disk: p.Disk, Number: p.Number}
			if p.Fresh { // the answer to a question, and not good enough
				x.asks.Came(e, p.Pass)
			}
			if n := x.work.Disks[p.Disk].Guest; !x.guests[n].settled() {
				x.asks.Want(asks.Parcels{Guest: n, Fresh: true, List: []flow.RecheckEntry{e}})
			}
			return nil
		default:
			x.asks.Came(flow.RecheckEntry{Disk: p.Disk, Number: p.Number}, p.Pass)
			if !how.take {
				return nil
			}
			x.blocks.Keep(p)
		}
	}
	x.dirty = true
	if a := m.Answer; a != nil && !a.Released {
		if a.Confirmed && int(a.Guest) < len(x.guests) { // a confirmation is of the moment: not journaled
			x.guests[a.Guest].confirmed = true
		}
		return nil
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	if err := x.journal.Append(b); err != nil {
		return err
	}
	if err := x.fold(m, how); err != nil {
		return err
	}
	if m.Answer != nil {
		return x.released(ctx, m.Answer)
	}
	return nil
}

// fold changes the state by a message that is in the journal; how is what accept
// said of its parcel.
func (x *indexer) fold(m *flow.Message, how decision) error {
	switch {
	case m.Plan != nil:
		return x.takePlan(m.Plan)
	case m.Fault != nil:
		n := m.Fault.Guest
		if m.Fault.ByDisk && int(m.Fault.Disk) < len(x.work.Disks) {
			n = x.work.Disks[m.Fault.Disk].Guest
		}
		if int(n) < len(x.guests) {
			x.fail(n, m.Fault)
		}
	case m.Parcel != nil && how.take:
		return x.take(x.w.Config.Job, m.Parcel, how)
	}
	return nil
}

func (x *indexer) released(ctx context.Context, a *flow.Answer) error {
	if int(a.Guest) >= len(x.guests) || x.guests[a.Guest].released {
		return nil
	}
	records, err := events.DecodeRecords(a.Facts)
	if err != nil {
		return problem("answer", err.Error())
	}
	x.guests[a.Guest].released = true
	return x.append(ctx, facts(records), nil)
}

func facts(records []events.Record) (out []events.Fact) {
	for _, r := range records {
		out = append(out, r.Fact)
	}
	return out
}

// advance does for a guest what has become possible: its opening facts, the
// question whether it held still, the commit, the release.
func (x *indexer) advance(ctx context.Context, n uint32) error {
	g := &x.guests[n]
	if g.planned && !g.recorded {
		if err := x.append(ctx, facts(g.facts), nil); err != nil {
			return err
		}
		g.recorded = true
	}
	switch {
	case g.settled() && !g.released && !g.releasing && x.open < asks.Window:
		g.releasing = true
		x.open++
		x.asks.Drop(n)
		return x.w.Send(ctx, flow.Snapshot, &flow.Message{Ask: &flow.Ask{Guest: n, Release: true, Kept: !g.point.IsZero()}})
	case g.settled():
		return nil
	case !x.complete(n):
		return nil
	case g.confirmed:
		return x.commit(ctx, n)
	case !g.asked && x.open < asks.Window:
		g.asked = true
		x.open++
		return x.w.Send(ctx, flow.Snapshot, &flow.Message{Ask: &flow.Ask{Guest: n, Confirm: true}})
	}
	return nil
}

// packFacts are the PackStored facts still to be written, with their objects.
func (x *indexer) packFacts() (out []events.Fact, in []ledger.ObjectRef, done func()) {
	var mine []uint32
	for i := range x.packs {
		p := &x.packs[i]
		if !p.isNew || p.recorded {
			continue
		}
		out = append(out, events.PackStored{Pack: p.Name, Domain: x.work.Domain, DataKey: p.Key, Size: p.Size, Chunks: p.Chunks, RawBytes: p.Raw})
		in = append(in, ledger.ObjectRef{Name: vault.PackName(p.job, p.Name), Sum: events.Hash(p.Name), Size: p.Size})
		mine = append(mine, uint32(i))
	}
	return out, in, func() {
		for _, i := range mine {
			x.written(i)
		}
	}
}

// record writes down packs that are durable, so that a later job finds their
// chunks even if this one dies.
func (x *indexer) record(ctx context.Context) error {
	x.lastRecord = time.Now()
	f, in, done := x.packFacts()
	if len(f) == 0 {
		return nil
	}
	if err := x.append(ctx, f, in); err != nil {
		return err
	}
	done()
	return nil
}

// append adds a segment to the ledger and feeds the live copy. The copy is a
// courtesy to followers: that it failed is no reason to stop.
func (x *indexer) append(ctx context.Context, f []events.Fact, in []ledger.ObjectRef) error {
	if err := x.store(ctx, f, in); err != nil {
		return err
	}
	return x.tell(ctx)
}

// store makes facts durable in the ledger.
func (x *indexer) store(ctx context.Context, f []events.Fact, in []ledger.ObjectRef) error {
	if _, err := x.ledger.AppendGuarded(ctx, x.w.Config.Job, &x.guard, f, in, nil); err != nil {
		return flow.VaultFault("append to the ledger", x.work.Vault, err)
	}
	x.dirty = true
	return nil
}

// sign puts all that is in the ledger under a checkpoint.
func (x *indexer) sign(ctx context.Context) error {
	signed, err := x.ledger.Checkpoint(ctx)
	if err != nil {
		return flow.VaultFault("sign the ledger of", x.work.Vault, err)
	}
	x.signed = signed
	return nil
}

// tell feeds the live copy with what is new in the ledger.
func (x *indexer) tell(ctx context.Context) error {
	var fresh []events.Record
	next := x.told
	for r, err := range x.ledger.Records(ctx, x.told) {
		if err != nil {
			return flow.VaultFault("read the ledger", x.work.Vault, err)
		}
		fresh = append(fresh, r)
		next = r.Position + 1
	}
	if x.live.Publish(ctx, fresh) == nil {
		x.told = next
	}
	return nil
}

// findLost asks for parcels that no queue holds and that have not come. It
// happens when a message is lost with everything that knew of it, which the
// rules of package flow exclude; the plan makes it right all the same.
func (x *indexer) findLost(ctx context.Context) error {
	queued, err := x.w.Queued(ctx)
	if err != nil {
		return nil // NATS is busy or gone; there will be another look
	}
	for _, n := range queued {
		if n > 0 {
			return nil
		}
	}
	// No question is on its way either: whatever was asked is asked again.
	x.asks.Lost()
	plans := 0
	for n := range x.guests {
		g := &x.guests[n]
		g.asked, g.releasing = false, false
		switch {
		case g.settled():
		case g.planned:
			for _, p := range x.missing(uint32(n), x.asks.Room()) {
				x.asks.Want(p)
			}
		case plans < asks.Window: // still to come, or lost with the server that had it
			plans++
			if err := x.w.Send(ctx, flow.Snapshot, &flow.Message{Ask: &flow.Ask{Guest: uint32(n), Plan: true}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// openQuestions counts the confirmations and releases asked for and not answered: of
// these too there are never so many that the indexer would wait for snapshot.
func (x *indexer) openQuestions() (open int) {
	for n := range x.guests {
		if g := &x.guests[n]; g.settled() && g.releasing && !g.released || !g.settled() && g.asked && !g.confirmed {
			open++
		}
	}
	return open
}
