// Package trust keeps a job from committing a point that refers to a pack which
// has gone while the job ran.
//
// A job finds out when it begins which packs it may refer to. From then on it
// tells [Packs.Heed] every fact that enters the ledger, and before it commits it
// asks [Packs.Check] for each pack that the point needs. What was [Packs.Need]ed is
// watched until the commit stands: Heed refuses a fact that takes one of them away,
// which keeps a guarded append (package ledger) from happening. So between the last
// look and the commit nothing can be retired unseen.
//
// A [Packs] is for one goroutine.
package trust

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// ErrGone: a pack may not be referred to any more, or is not there. ErrRetired is
// the kind of it that somebody said so.
var (
	ErrGone    = errors.New("pack has gone")
	ErrRetired = fmt.Errorf("retired or withdrawn: %w", ErrGone)
)

// Shredded is ledger.ErrShredded if a fact says that of the domain.
func Shredded(r events.Record, d id.Domain) error {
	if f, ok := r.Fact.(events.DomainShredded); ok && f.Domain == d {
		return fmt.Errorf("by %s at position %d: %w", f.By, r.Position, ledger.ErrShredded)
	}
	return nil
}

// Packs is what was said of packs since a job began.
type Packs struct {
	store  store.Store
	domain id.Domain                  // of the job
	gone   map[catalog.PackKey]string // why
	need   map[catalog.PackKey]bool
	sizes  map[id.Job]map[id.Object]int64 // of the packs in a job's folder
}

// New knows nothing yet. d is the domain that the job seals in.
func New(st store.Store, d id.Domain) *Packs {
	return &Packs{store: st, domain: d, gone: map[catalog.PackKey]string{}}
}

// Heed takes in a fact. It returns ErrGone if that takes away a pack that is
// needed now, and remembers it all the same; ledger.ErrShredded if it takes away the
// keys of all of them, and nothing more is to be said.
func (p *Packs) Heed(r events.Record) error {
	lost := Shredded(r, p.domain)
	note := func(k catalog.PackKey, why string) {
		p.gone[k] = fmt.Sprintf("%s at position %d", why, r.Position)
		if p.need[k] {
			lost = p.gonePack(k)
		}
	}
	switch f := r.Fact.(type) {
	case events.PacksRetired:
		for _, k := range f.Packs {
			note(catalog.PackKey{Job: k.Job, Pack: k.Pack}, "it was retired")
		}
	case events.ChunkWithdrawn:
		note(catalog.PackKey{Job: f.Job, Pack: f.Pack}, "a damaged chunk in it was withdrawn")
	}
	return lost
}

func (p *Packs) gonePack(k catalog.PackKey) error {
	return fmt.Errorf("%s: %s: %w", vault.PackName(k.Job, k.Pack), p.gone[k], ErrRetired)
}

// Need begins to look after what a commit needs, with what the vault holds now.
func (p *Packs) Need() {
	p.need, p.sizes = map[catalog.PackKey]bool{}, map[id.Job]map[id.Object]int64{}
}

// Done ends it.
func (p *Packs) Done() { p.need, p.sizes = nil, nil }

// Check makes sure that a pack is there, is at least so long, and may be referred
// to, and needs it from now on. ErrGone says that it is not; any other error that
// the vault could not be asked. It is called between Need and Done.
func (p *Packs) Check(ctx context.Context, k catalog.PackKey, length int64) error {
	if p.gone[k] != "" {
		return p.gonePack(k)
	}
	sizes := p.sizes[k.Job]
	if sizes == nil {
		var err error
		if sizes, err = p.list(ctx, k.Job); err != nil {
			return err
		}
		p.sizes[k.Job] = sizes
	}
	name := vault.PackName(k.Job, k.Pack)
	size, ok := sizes[k.Pack]
	switch {
	case !ok:
		return fmt.Errorf("%s: it is not in the vault: %w", name, ErrGone)
	case size < length:
		return fmt.Errorf("%s: %d bytes are too few: %w: %w", name, size, ErrGone, vault.ErrDamaged)
	}
	p.need[k] = true
	return nil
}

// Use is a pack that a point refers to.
type Use struct {
	Pack   flow.PackID
	Length int64 // how far into it the point's chunks reach
	Own    bool  // the job has just stored it
}

// Gone is Need, and then Check or Own for each of them: those that have gone, and why.
func (p *Packs) Gone(ctx context.Context, uses iter.Seq2[Use, error]) (map[flow.PackID]error, error) {
	p.Need()
	gone := map[flow.PackID]error{}
	for u, err := range uses {
		k := catalog.PackKey{Job: u.Pack.Job, Pack: u.Pack.Name}
		switch {
		case err != nil:
			return nil, err
		case u.Own:
			err = p.Own(k)
		default:
			err = p.Check(ctx, k, u.Length)
		}
		switch {
		case errors.Is(err, ErrGone):
			gone[u.Pack] = err
		case err != nil: // it may well be there
			return nil, flow.VaultFault("check packs of", "the point", err)
		}
	}
	return gone, nil
}

// Remedy is what helps a guest that needs a pack which has gone.
const Remedy = "run the job again, which stores what the pack had once more"

// Fault is that of a guest which needs a pack that went while the job ran, and
// could not be given again what was in it.
func Fault(err error) *flow.Fault {
	f := &flow.Fault{
		Class: flow.Park, Code: "damaged", Op: "check packs of", Object: "the point", Cause: err.Error(), Err: err,
		Remedy: Remedy + "; run millrace verify to see which points need it",
	}
	if errors.Is(err, ErrRetired) {
		f.Code, f.Remedy = "pack-retired", Remedy
	}
	return f
}

// Own needs a pack that the job itself has just stored.
func (p *Packs) Own(k catalog.PackKey) error {
	if p.gone[k] != "" {
		return p.gonePack(k)
	}
	p.need[k] = true
	return nil
}

// list asks for all packs of a job at once: a point names thousands.
func (p *Packs) list(ctx context.Context, job id.Job) (map[id.Object]int64, error) {
	sizes := map[id.Object]int64{}
	for e, err := range p.store.List(ctx, vault.PackPrefix(job)) {
		if err != nil {
			return nil, fmt.Errorf("list the packs of job %s: %w", job, err)
		}
		var pack id.Object
		if pack.UnmarshalText([]byte(path.Base(e.Name))) == nil {
			sizes[pack] = e.Size
		}
	}
	return sizes, nil
}
