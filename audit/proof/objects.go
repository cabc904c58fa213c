package proof

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"github.com/millrace-backup/millrace/audit/proof/names"
	"github.com/millrace-backup/millrace/audit/proof/whole"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/apart"
	"github.com/millrace-backup/millrace/vault/store"
)

// unnamed is an object in packs/ or tables/ that no segment names.
type unnamed struct {
	store.Entry
	err error // nil: it is what its name and its own clear part say
}

// task is an object to be read.
type task struct {
	store.Entry
	ref   names.Ref
	named bool
}

// objects walks over all objects and all that the ledger names, both in the order of
// names, and has each read once.
func (p *pass) objects(ctx context.Context) error {
	total, err := p.refs.Bytes()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.total = total + p.done
	p.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan task)
	var readers sync.WaitGroup
	for range max(p.o.Workers, 1) {
		readers.Go(func() {
			r := whole.New(p.o.Store, p.o.Config.ID, p.o.Vault, p.advance)
			for t := range work {
				if err := p.read(ctx, r, t); err != nil {
					cancel(err)
				}
			}
		})
	}
	err = p.join(ctx, work)
	close(work)
	readers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// join pairs what is there with what the ledger names.
func (p *pass) join(ctx context.Context, work chan<- task) error {
	next, stop := iter.Pull2(p.refs.All())
	defer stop()
	named, err, more := next()
	// upTo enters what the ledger names before name and is not there.
	upTo := func(name string) error {
		for more && err == nil && (name == "" || named.Name < name) {
			if !named.Retired {
				p.gone = append(p.gone, named)
			}
			named, err, more = next()
		}
		return err
	}
	for e, listed := range p.o.Store.List(ctx, "") {
		if listed != nil {
			return listed
		}
		folder, _, nested := strings.Cut(e.Name, "/")
		switch folder {
		case "ledger", "checkpoints", "leases", "catalogs", "points":
			if nested {
				continue // these have been looked at
			}
		}
		if err := upTo(e.Name); err != nil {
			return err
		}
		t := task{Entry: e}
		if more && named.Name == e.Name {
			t.ref, t.named = named, true
			named, err, more = next()
			if err != nil {
				return err
			}
		}
		if !t.named && folder != "packs" && folder != "tables" {
			p.beside(e, folder)
			continue
		}
		select {
		case work <- t:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return upTo("")
}

// beside judges an object that no segment names and that no job stored.
func (p *pass) beside(e store.Entry, folder string) {
	switch {
	case e.Name == vault.ConfigName:
		p.count(e.Name, e.Size) // its signature has been checked
	case folder == "rotations": // on its way, or of a rotation that died
		p.count(e.Name, e.Size)
		p.mu.Lock()
		p.note("%s holds fresh keys, sealed with those from before: a rotation is under way, or died and is finished by the next", e.Name)
		p.mu.Unlock()
	case folder+"/" == apart.Prefix: // nothing was sealed in it before a segment named it
		p.count(e.Name, e.Size)
		p.mu.Lock()
		p.note("%s has keys of a guest that no segment names: a backup is beginning, or died before it began", e.Name)
		p.mu.Unlock()
	case folder != "keys":
		p.mu.Lock()
		p.note("%s is not of the vault", e.Name)
		p.mu.Unlock()
	case !p.keyed:
		p.count(e.Name, e.Size)
	default:
		p.count(e.Name, e.Size)
		p.mu.Lock()
		p.loose = append(p.loose, unnamed{Entry: e})
		p.mu.Unlock()
	}
}

// read reads an object and says what is wrong with it. The error is one of reading.
func (p *pass) read(ctx context.Context, r *whole.Reader, t task) error {
	if t.named && t.ref.Retired {
		p.mu.Lock()
		p.r.Retired.add(t.Size)
		p.mu.Unlock()
	}
	sum, size, err := r.Sum(ctx, t.Entry)
	if errors.Is(err, store.ErrNotFound) {
		if t.named && !t.ref.Retired {
			p.mu.Lock()
			p.gone = append(p.gone, t.ref)
			p.mu.Unlock()
		}
		return nil // deleted since it was listed; if it should not have been, late finds out
	}
	if err != nil && !wrong(err) {
		return err
	}
	p.count(t.Name, size)
	if !t.named {
		if err == nil {
			err = r.Own(ctx, t.Entry, sum)
		}
		if err != nil && !wrong(err) {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.loose = append(p.loose, unnamed{t.Entry, err})
		return nil
	}
	j, _ := whole.Job(t.Name)
	switch {
	case t.ref.Retired && strings.HasPrefix(t.Name, apart.Prefix):
		// A crash before it was deleted leaves this, and so does whoever puts it back.
		p.found(Finding{Object: t.Name, What: what(t.Name), State: Extra,
			Err: fmt.Errorf("segment %d shredded it, and it is there: what it opens can be read until millrace prune destroys it: %w", t.ref.Seq, vault.ErrDamaged)})
		return nil
	case err != nil:
	case t.ref.Retired && strings.HasPrefix(t.Name, "keys/") && t.ref.Size == 0: // the last word on a key, see ledger/keyring
		p.found(Finding{Object: t.Name, What: what(t.Name), State: Extra,
			Err: fmt.Errorf("segment %d says that it was removed, so it was put back, and opens the vault: %w", t.ref.Seq, vault.ErrDamaged)})
		return nil
	case size != t.ref.Size:
		err = fmt.Errorf("it has %d bytes, segment %d says %d: %w", size, t.ref.Seq, t.ref.Size, vault.ErrDamaged)
	case sum != t.ref.Sum:
		err = fmt.Errorf("its SHA-256 is %s, segment %d says %s: %w", sum, t.ref.Seq, t.ref.Sum, vault.ErrDamaged)
	default:
		if err = r.Footer(ctx, t.Entry); err != nil && !wrong(err) {
			return err
		}
	}
	if err != nil {
		p.found(Finding{Object: t.Name, What: what(t.Name), Job: j, Err: claimed(t.ref, err)})
	}
	return nil
}

// claimed adds to what is wrong with an object that somebody has tried to explain it away.
func claimed(ref names.Ref, err error) error {
	if !ref.Claimed {
		return err
	}
	return fmt.Errorf("%w; segment %d, which nothing proves, says something else of it", err, ref.Claim)
}
