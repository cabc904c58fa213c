package proof

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-backup/millrace/audit/proof/whole"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// The vault is in use while it is looked at: what was missing, or named by nobody, may have
// been explained meanwhile.

// since is what segments behind the newest checkpoint that was read say of the objects in
// question, with those that were appended since.
type since struct {
	retired map[string]bool // by segments that are proven by now
	claimed map[string]bool // by others
	brought map[string]bool // by any
}

// late looks once more at what was missing and what nobody named.
func (p *pass) late(ctx context.Context) error {
	if len(p.gone) == 0 && len(p.loose) == 0 {
		return nil
	}
	about := map[string]bool{}
	for _, g := range p.gone {
		about[g.Name] = true
	}
	for _, u := range p.loose {
		about[u.Name] = true
	}
	then, err := p.since(ctx, about)
	if err != nil {
		return err
	}
	now, err := p.beating(ctx, nil)
	if err != nil {
		return err
	}
	for _, g := range p.gone {
		if then.retired[g.Name] || !g.Proven && then.claimed[g.Name] {
			continue
		}
		if _, err := store.Stat(ctx, p.o.Store, g.Name); err == nil {
			p.note("%s came back while the vault was looked at: look again", g.Name)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		j, _ := whole.Job(g.Name)
		err := fmt.Errorf("it is missing: segment %d brought it in, with %d bytes: %w", g.Seq, g.Size, vault.ErrDamaged)
		p.found(Finding{Object: g.Name, What: what(g.Name), State: Missing, Job: j, Err: claimed(g, err)})
	}
	for _, u := range p.loose {
		// A key is announced, as retired, before it is stored: see ledger/keyring.
		announced := strings.HasPrefix(u.Name, "keys/") && then.retired[u.Name]
		if !then.brought[u.Name] && !announced {
			p.judge(u, now)
		}
	}
	return nil
}

// since reads the ledger from the newest checkpoint on, once more. Whoever deletes an object
// has signed before that it is retired, so for what has gone the checkpoint is there now.
func (p *pass) since(ctx context.Context, about map[string]bool) (since, error) {
	x := since{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	signed := map[ledger.Mark]bool{}
	for e, err := range p.o.Store.List(ctx, "checkpoints/") {
		if err != nil {
			return x, err
		}
		size, ok := ledger.CheckpointSize(e.Name)
		if !ok || size <= p.r.Signed.Size {
			continue
		}
		c, err := ledger.ReadCheckpoint(ctx, p.o.Config, p.o.Store, size)
		if err != nil && !wrong(err) && !errors.Is(err, store.ErrNotFound) {
			return x, err
		}
		if err == nil {
			signed[c.Mark()] = true
		}
	}
	here := ledger.Empty()
	if p.r.Signed.Size > 0 {
		here = p.r.Signed.Mark()
	}
	var waiting []string // said to be retired, and not proven yet
	for seq := p.r.Signed.Seq; ; seq++ {
		s, err := ledger.ReadSegment(ctx, p.o.Config, p.o.Store, seq)
		if errors.Is(err, store.ErrNotFound) || err != nil && wrong(err) {
			return x, nil
		}
		if err != nil {
			return x, err
		}
		p.jobs[s.Job] = true
		for _, o := range s.In {
			x.brought[o.Name] = x.brought[o.Name] || about[o.Name]
		}
		for _, o := range s.Out {
			if about[o.Name] {
				x.claimed[o.Name] = true
				waiting = append(waiting, o.Name)
			}
		}
		if s.Before() != here {
			return x, nil // what continues nothing is proven by nothing
		}
		here = s.After()
		proven := signed[here]
		if p.o.Vault != nil && !proven {
			_, err := s.Records(ctx, p.o.Vault)
			if proven = err == nil; err != nil {
				return x, nil
			}
		}
		if proven {
			for _, name := range waiting {
				x.retired[name] = true
			}
			waiting = nil
		}
	}
}

// judge says what an object that no segment names counts as.
func (p *pass) judge(u unnamed, now map[id.Job]bool) {
	j, ok := whole.Job(u.Name)
	switch {
	case strings.HasPrefix(u.Name, "keys/"):
		u.err = fmt.Errorf("no segment brought it in: %w", vault.ErrDamaged)
	case u.err != nil:
		u.err = fmt.Errorf("no segment names it: %w", u.err)
	case p.alive[j] || now[j]:
		p.r.Running.add(u.Size)
		return
	case ok && p.jobs[j]:
		p.r.LeftOver.add(u.Size)
		return
	default:
		u.err = fmt.Errorf("no segment names it, nor the job in whose folder it is: %w", vault.ErrDamaged)
	}
	p.found(Finding{Object: u.Name, What: what(u.Name), State: Extra, Job: j, Err: u.err})
}
