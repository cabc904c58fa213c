package proof

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/millrace-backup/millrace/audit/proof/names"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// piece is how much of an object is read at once.
const piece = 1 << 20

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
			r := reader{p: p, buf: make([]byte, piece), tail: make([]byte, 0, 2*tailProbe)}
			for t := range work {
				if err := r.read(ctx, t); err != nil {
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

// reader reads objects, one at a time.
type reader struct {
	p    *pass
	buf  []byte
	head [headProbe]byte
	tail []byte // the last bytes that were read
	kept int64  // where in the object tail begins
}

// headProbe is the clear part of a pack, which is the longer; tailProbe is what the
// footers of nearly all packs fit into, see vault.ReadPackFooter.
const (
	headProbe = 92
	tailProbe = 128 << 10
)

// read reads an object and says what is wrong with it. The error is one of reading.
func (r *reader) read(ctx context.Context, t task) error {
	p := r.p
	if t.named && t.ref.Retired {
		p.mu.Lock()
		p.r.Retired.add(t.Size)
		p.mu.Unlock()
	}
	sum, size, err := r.sum(ctx, t.Entry)
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
		p.mu.Lock()
		defer p.mu.Unlock()
		p.loose = append(p.loose, unnamed{t.Entry, errors.Join(err, r.own(ctx, t.Entry, sum))})
		return nil
	}
	j, _ := jobOf(t.Name)
	switch {
	case err != nil:
	case size != t.ref.Size:
		err = fmt.Errorf("it has %d bytes, segment %d says %d: %w", size, t.ref.Seq, t.ref.Size, vault.ErrDamaged)
	case sum != t.ref.Sum:
		err = fmt.Errorf("its SHA-256 is %s, segment %d says %s: %w", sum, t.ref.Seq, t.ref.Sum, vault.ErrDamaged)
	case strings.HasPrefix(t.Name, "packs/") && p.o.Vault != nil:
		if err = r.footer(ctx, t.Entry); err != nil && !wrong(err) {
			return err
		}
	}
	if err != nil {
		p.found(Finding{Object: t.Name, What: what(t.Name), Job: j, Err: err})
	}
	return nil
}

// sum reads an object whole and keeps its beginning and its end.
func (r *reader) sum(ctx context.Context, e store.Entry) (sum events.Hash, size int64, err error) {
	h := sha256.New()
	r.tail, r.kept = r.tail[:0], 0
	for {
		n, err := r.p.o.Store.Get(ctx, e.Name, size, r.buf)
		b := r.buf[:n]
		h.Write(b)
		if size == 0 {
			clear(r.head[copy(r.head[:], b):])
		}
		size += int64(n)
		r.tail = append(r.tail, b[max(0, len(b)-tailProbe):]...)
		if over := len(r.tail) - tailProbe; over > 0 {
			r.tail = r.tail[:copy(r.tail, r.tail[over:])]
		}
		r.p.advance(int64(n))
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			r.kept = size - int64(len(r.tail))
			return events.Hash(h.Sum(nil)), size, nil
		case err != nil:
			return sum, size, fmt.Errorf("read %s: %w", e.Name, err)
		case size > e.Size+piece:
			return sum, size, fmt.Errorf("read %s: it goes on behind its %d bytes: %w", e.Name, e.Size, vault.ErrDamaged)
		}
	}
}

// own checks that an object nobody names is what its own name and clear part say: of
// this vault and of the job in whose folder it lies.
func (r *reader) own(ctx context.Context, e store.Entry, sum events.Hash) error {
	j, ok := jobOf(e.Name)
	if !ok || !strings.HasSuffix(e.Name, "/"+sum.String()) {
		return fmt.Errorf("its name is not its SHA-256: %w", vault.ErrDamaged)
	}
	v := r.p.o.Config.ID
	if strings.HasPrefix(e.Name, "tables/") {
		if !bytes.HasPrefix(r.head[:], []byte("MRTABL")) || !bytes.Equal(r.head[10:42], v[:]) {
			return fmt.Errorf("it is no table of this vault: %w", vault.ErrDamaged)
		}
		return nil
	}
	if !bytes.HasPrefix(r.head[:], []byte("MRPACK")) || !bytes.Equal(r.head[8:40], v[:]) || !bytes.Equal(r.head[56:72], j[:]) {
		return fmt.Errorf("it is no pack of this vault and job: %w", vault.ErrDamaged)
	}
	if r.p.o.Vault != nil {
		return r.footer(ctx, e)
	}
	return nil
}

// footer opens the footer of the pack that was just read, from what was kept of it.
func (r *reader) footer(ctx context.Context, e store.Entry) error {
	j, ok := jobOf(e.Name)
	var name id.Object
	if !ok || name.UnmarshalText([]byte(e.Name[strings.LastIndexByte(e.Name, '/')+1:])) != nil {
		return fmt.Errorf("not the name of a pack: %w", vault.ErrDamaged)
	}
	_, err := vault.ReadPackFooter(ctx, ends{r.p.o.Store, e, r}, r.p.o.Vault.Keys, j, name)
	return err
}

// ends is a store in which the beginning and the end of one object are at hand.
type ends struct {
	store.Store
	e store.Entry
	r *reader
}

func (s ends) Stat(context.Context, string) (store.Entry, error) { return s.e, nil }

func (s ends) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	to := off + int64(len(buf))
	switch {
	case to <= headProbe:
		return copy(buf, s.r.head[off:to]), nil
	case off >= s.r.kept && to <= s.r.kept+int64(len(s.r.tail)):
		return copy(buf, s.r.tail[off-s.r.kept:]), nil
	}
	return s.Store.Get(ctx, name, off, buf)
}

// late looks once more at what was missing and what nobody named: the vault is in use, and
// a segment that was appended meanwhile may explain it.
func (p *pass) late(ctx context.Context) error {
	if len(p.gone) == 0 && len(p.loose) == 0 {
		return nil
	}
	retired, brought := map[string]bool{}, map[string]bool{}
	for seq := p.r.Segments; ; seq++ {
		s, err := ledger.ReadSegment(ctx, p.o.Config, p.o.Store, seq)
		if errors.Is(err, store.ErrNotFound) || err != nil && wrong(err) {
			break
		}
		if err != nil {
			return err
		}
		p.jobs[s.Job] = true
		for _, o := range s.Out {
			retired[o.Name] = true
		}
		for _, o := range s.In {
			brought[o.Name] = true
		}
	}
	now, err := p.beating(ctx, nil)
	if err != nil {
		return err
	}
	for _, g := range p.gone {
		if retired[g.Name] {
			continue
		}
		if _, err := store.Stat(ctx, p.o.Store, g.Name); err == nil {
			p.note("%s came back while the vault was looked at: look again", g.Name)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		j, _ := jobOf(g.Name)
		p.found(Finding{Object: g.Name, What: what(g.Name), State: Missing, Job: j,
			Err: fmt.Errorf("it is missing: segment %d brought it in, with %d bytes: %w", g.Seq, g.Size, vault.ErrDamaged)})
	}
	for _, u := range p.loose {
		if !brought[u.Name] {
			p.judge(u, now)
		}
	}
	return nil
}

// judge says what an object that no segment names counts as.
func (p *pass) judge(u unnamed, now map[id.Job]bool) {
	j, ok := jobOf(u.Name)
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
