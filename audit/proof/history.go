package proof

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// link is a segment as far as the proof of the ledger is about it.
type link struct {
	seq, to       uint64 // to: the last of several that are missing
	before, after ledger.Mark
	bad           bool // it could not be read, or is not there
	opened        bool // so a holder of the keys wrote it
	keyed         bool // it names keys
}

// stretch is the part of the ledger that no checkpoint has settled yet: from a place
// whose tree is proven, if known, to where the pass has come.
//
// A checkpoint that agrees with what was read settles it, backwards: each segment is
// proven by the root that the one after it continues. Where one does not, all before it
// is unknown until another checkpoint speaks for it, so a single damaged segment hides
// nothing but itself.
type stretch struct {
	low      ledger.Mark
	known    bool
	links    []link
	disputed []ledger.Checkpoint // that did not agree when their turn came
	next     uint64
	seen     []Seen
	newest   ledger.Checkpoint
	last     ledger.Mark // after the last segment that could be read
}

// maxStretch bounds how much waits for a checkpoint that agrees.
const maxStretch = 1 << 16

// maxGap bounds how many missing segments are named one by one.
const maxGap = 100

// history reads the ledger and its checkpoints side by side, in order.
func (p *pass) history(ctx context.Context) error {
	next, stop := iter.Pull2(p.checkpoints(ctx))
	defer stop()
	w := &stretch{low: ledger.Empty(), known: true, last: ledger.Empty(), seen: slices.Clone(p.o.Seen)}
	var waiting *ledger.Checkpoint
	// upTo takes the checkpoints of up to so many leaves.
	upTo := func(size uint64) error {
		for {
			if waiting == nil {
				c, err, more := next()
				if err != nil || !more {
					return err
				}
				waiting = &c
			}
			if waiting.Size > size {
				return nil
			}
			p.anchor(w, *waiting)
			waiting = nil
		}
	}
	for e, err := range p.o.Store.List(ctx, "ledger/") {
		if err != nil {
			return err
		}
		seq, ok := ledger.SegmentNumber(e.Name)
		if !ok {
			p.found(Finding{Object: e.Name, What: "no segment by its name", State: Extra, Err: fmt.Errorf("nothing explains it: %w", vault.ErrDamaged)})
			continue
		}
		if err := p.gap(ctx, w, seq, upTo); err != nil {
			return err
		}
		if seq < w.next {
			continue // put since the listing began, and read as the last of a gap
		}
		if err := p.segment(ctx, w, upTo); err != nil {
			return err
		}
	}
	// Others may have appended since the listing, and signed.
	for {
		if _, err := store.Stat(ctx, p.o.Store, ledger.SegmentName(w.next)); errors.Is(err, store.ErrNotFound) {
			break
		} else if err != nil {
			return err
		}
		if err := p.segment(ctx, w, upTo); err != nil {
			return err
		}
	}
	if err := upTo(^uint64(0)); err != nil {
		return err
	}
	return p.end(ctx, w)
}

// checkpoints yields those that verify, in order of their sizes, and enters the others.
func (p *pass) checkpoints(ctx context.Context) iter.Seq2[ledger.Checkpoint, error] {
	return func(yield func(ledger.Checkpoint, error) bool) {
		for e, err := range p.o.Store.List(ctx, "checkpoints/") {
			if err != nil {
				yield(ledger.Checkpoint{}, err)
				return
			}
			size, ok := ledger.CheckpointSize(e.Name)
			if !ok {
				p.found(Finding{Object: e.Name, What: "no checkpoint by its name", State: Extra, Err: fmt.Errorf("nothing explains it: %w", vault.ErrDamaged)})
				continue
			}
			p.count(e.Name, e.Size)
			p.sizes = append(p.sizes, size)
			c, err := ledger.ReadCheckpoint(ctx, p.o.Config, p.o.Store, size)
			if err != nil && !wrong(err) {
				yield(c, err)
				return
			}
			if err != nil {
				p.found(Finding{Object: e.Name, What: what(e.Name), Err: err})
				continue
			}
			for _, earlier := range c.Prev {
				if _, there := slices.BinarySearch(p.sizes, earlier); !there && earlier < size {
					p.lost(earlier, e.Name+" says that it was there")
				}
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// gap enters the segments that are missing before seq. A listing may have missed one that
// is put while it runs; asking does not.
func (p *pass) gap(ctx context.Context, w *stretch, seq uint64, upTo func(uint64) error) error {
	for w.next < seq {
		_, err := store.Stat(ctx, p.o.Store, ledger.SegmentName(w.next))
		if err == nil {
			if err := p.segment(ctx, w, upTo); err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		name, more := ledger.SegmentName(w.next), ""
		from := w.next
		if seq-w.next > maxGap {
			more = fmt.Sprintf(", and so are all up to %s", ledger.SegmentName(seq-1))
			w.next = seq - 1
		}
		p.found(Finding{Object: name, What: what(name), State: Missing, Err: fmt.Errorf("it is missing%s: %w", more, vault.ErrDamaged)})
		p.push(w, link{seq: from, to: w.next, bad: true})
		w.next++
	}
	return nil
}

// segment reads the next segment.
func (p *pass) segment(ctx context.Context, w *stretch, upTo func(uint64) error) error {
	name := ledger.SegmentName(w.next)
	s, err := ledger.ReadSegment(ctx, p.o.Config, p.o.Store, w.next)
	if err != nil && !wrong(err) {
		return err
	}
	if err != nil {
		p.count(name, 0)
		p.found(Finding{Object: name, What: what(name), Err: err})
		p.push(w, link{seq: w.next, to: w.next, bad: true})
		w.next++
		return nil
	}
	p.count(name, s.Length())
	if err := upTo(s.PrevSize); err != nil {
		return err
	}
	if !s.Job.IsZero() {
		p.jobs[s.Job] = true
	}
	l := link{seq: w.next, to: w.next, before: s.Before(), after: s.After()}
	for n, list := range [][]ledger.ObjectRef{s.In, s.Out} {
		for _, o := range list {
			if err := store.CheckName(o.Name); err != nil || o.Size < 0 {
				p.found(Finding{Object: name, What: what(name), Job: s.Job, Err: fmt.Errorf("it names what can be no object: %.80q of %d bytes: %w", o.Name, o.Size, vault.ErrDamaged)})
				continue
			}
			l.keyed = l.keyed || strings.HasPrefix(o.Name, "keys/")
			if err := p.refs.Add(w.next, o, n == 1); err != nil {
				return err
			}
		}
	}
	p.fold(ctx, s, &l)
	p.push(w, l)
	w.next++
	return nil
}

// lost enters a checkpoint that was there once.
func (p *pass) lost(size uint64, why string) {
	name := ledger.CheckpointName(size)
	p.sizes = append(p.sizes, size) // named once
	slices.Sort(p.sizes)
	p.found(Finding{Object: name, What: what(name), State: Missing, Err: fmt.Errorf("it is missing: %s: %w", why, vault.ErrDamaged)})
}

// fold opens the body and adds its facts to the catalog.
func (p *pass) fold(ctx context.Context, s *ledger.Segment, l *link) {
	if p.o.Vault == nil {
		return
	}
	name := ledger.SegmentName(s.Seq)
	records, err := s.Records(ctx, p.o.Vault)
	if err != nil {
		// A holder of the keys did not write this: nothing it says counts.
		l.bad = true
		p.found(Finding{Object: name, What: what(name), Job: s.Job, Err: err})
		return
	}
	l.opened = true
	for _, r := range records {
		if _, later := r.Fact.(events.Unknown); later {
			p.r.Later[r.Kind]++
		}
		if f, ok := r.Fact.(events.DiskSealed); ok && f.ZeroBytes+f.UnchangedBytes+f.KnownBytes+f.NewBytes != f.Size {
			p.found(Finding{Object: name, What: what(name), Job: r.Job, Err: fmt.Errorf("a disk of %d bytes is said to be zero %d + unchanged %d + known %d + new %d: %w",
				f.Size, f.ZeroBytes, f.UnchangedBytes, f.KnownBytes, f.NewBytes, vault.ErrDamaged)})
		}
		if err := p.state.Apply(r); err != nil {
			p.found(Finding{Object: name, What: what(name), Job: r.Job, Err: fmt.Errorf("%w: %w", vault.ErrDamaged, err)})
			return
		}
	}
}

func (p *pass) push(w *stretch, l link) {
	w.links = append(w.links, l)
	if !l.bad {
		w.last = l.after
	}
	if len(w.links) >= maxStretch {
		p.settle(w, nil, false)
	}
}

// anchor takes a checkpoint up in its turn.
func (p *pass) anchor(w *stretch, c ledger.Checkpoint) {
	w.newest = c
	n := len(w.links)
	switch {
	case n == 0 && c.Seq == w.next:
		if w.known && c.Mark() != w.low {
			p.fork(c, w.low)
		} else {
			w.low, w.known = c.Mark(), true
		}
	case n > 0 && c.Seq == w.next && !w.links[n-1].bad && w.links[n-1].after == c.Mark():
		p.settle(w, &c, false)
	default:
		w.disputed = append(w.disputed, c)
	}
}

func (p *pass) fork(c ledger.Checkpoint, here ledger.Mark) {
	name := ledger.CheckpointName(c.Size)
	p.found(Finding{Object: name, What: what(name), Err: fmt.Errorf("it signs root %s of %d leaves before segment %d; there are %d leaves with root %s: %w",
		c.Root, c.Size, c.Seq, here.Size, here.Root, ledger.ErrForked)})
}

// settle goes through the stretch backwards, from a checkpoint that agrees with its end if
// there is one, and begins a new one. end says that the ledger ends here.
func (p *pass) settle(w *stretch, top *ledger.Checkpoint, end bool) {
	var proven ledger.Mark
	known := top != nil
	if known {
		proven = top.Mark()
	}
	tail := end // no checkpoint has spoken yet
	for n := len(w.links) - 1; n >= 0; n-- {
		l := &w.links[n]
		w.disputed = slices.DeleteFunc(w.disputed, func(c ledger.Checkpoint) bool {
			switch {
			case c.Seq <= l.seq || c.Seq > l.to+1:
				return false
			case c.Seq <= l.to: // among those that are missing
			case !known:
				proven, known, tail = c.Mark(), true, false
			case c.Mark() != proven:
				p.fork(c, proven)
			}
			return true
		})
		p.compare(w, l, proven, known)
		believed := false
		switch {
		case l.bad:
			known = false
		case !known:
			believed = p.unproven(w, n, tail) && l.opened
		case l.after != proven:
			name := ledger.SegmentName(l.seq)
			p.found(Finding{Object: name, What: what(name), Err: fmt.Errorf("it ends at %d leaves, root %s; signed are %d, %s: %w",
				l.after.Size, l.after.Root, proven.Size, proven.Root, vault.ErrDamaged)})
			known = false
		default:
			proven, believed = l.before, true
		}
		p.believe(l, believed)
	}
	if known && w.known && len(w.links) > 0 && proven != w.low {
		name := ledger.SegmentName(w.links[0].seq)
		p.found(Finding{Object: name, What: what(name), Err: fmt.Errorf("it continues %d leaves, root %s; before it there are %d, %s: %w",
			proven.Size, proven.Root, w.low.Size, w.low.Root, ledger.ErrForked)})
	}
	if top != nil {
		for _, c := range w.disputed { // of a place that was settled before
			p.fork(c, w.low)
		}
		w.low, w.known, w.disputed = top.Mark(), true, nil
	} else {
		w.known = false
	}
	w.links = w.links[:0]
}

// believe says whether what a segment's header says of objects counts: a signature reaches
// it, or a holder of the keys wrote it. Of any other it only explains what is there and
// would be too much: anyone who can write to the vault can have made it.
func (p *pass) believe(l *link, believed bool) {
	if !believed {
		p.refs.Doubt(l.seq)
	}
	p.keyed, p.claimed = p.keyed || l.keyed && believed, p.claimed || l.keyed
	p.signs = p.signs || l.keyed && believed && l.seq == 0
}

// unproven enters a segment that no signature reaches: only that it continues the one
// before it can be seen, and whether it does.
func (p *pass) unproven(w *stretch, n int, tail bool) bool {
	l := &w.links[n]
	before, known := w.low, w.known
	if n > 0 {
		before, known = w.links[n-1].after, !w.links[n-1].bad
	}
	continues := !known || l.before == before
	if !continues {
		name := ledger.SegmentName(l.seq)
		p.found(Finding{Object: name, What: what(name), Err: fmt.Errorf("it continues %d leaves, root %s, not %d, %s: %w",
			l.before.Size, l.before.Root, before.Size, before.Root, ledger.ErrForked)})
	}
	if tail {
		p.r.Tail++
	} else {
		p.r.Unproven++
	}
	return continues
}

// compare holds a place of the ledger against what was seen of it before.
func (p *pass) compare(w *stretch, l *link, proven ledger.Mark, known bool) {
	here := l.after
	if known {
		here = proven
	}
	w.seen = slices.DeleteFunc(w.seen, func(s Seen) bool {
		if s.Seq != l.to+1 {
			return s.Seq > l.seq && s.Seq <= l.to
		}
		if (known || !l.bad) && s.Mark() != here {
			p.found(Finding{Object: ledger.SegmentName(l.seq), What: what(ledger.SegmentName(l.seq)), Err: fmt.Errorf(
				"with it the ledger has %d leaves, root %s; %s has seen %d, %s: %w", here.Size, here.Root, s.By, s.Size, s.Root, ledger.ErrForked)})
		}
		return true
	})
	for n := range p.snaps {
		s := &p.snaps[n]
		if s.at.Seq == l.to+1 && (known || !l.bad) && s.mark() != here {
			p.found(Finding{Object: s.name, What: what(s.name), Err: fmt.Errorf("it is of a ledger with %d leaves, root %s; there are %d, %s: %w",
				s.at.Size, s.root, here.Size, here.Root, ledger.ErrForked)})
		}
	}
}

// end judges what stands behind the last checkpoint that agreed, and what should be there.
func (p *pass) end(ctx context.Context, w *stretch) error {
	p.settle(w, nil, true)
	p.r.Segments, p.r.Head, p.r.Signed = w.next, w.last, w.newest
	for _, c := range w.disputed {
		name := ledger.SegmentName(w.next)
		if c.Seq > w.next {
			p.found(Finding{Object: name, What: what(name), State: Missing, Err: fmt.Errorf("the ledger ends before it, %s covers %d segments: %w",
				ledger.CheckpointName(c.Size), c.Seq, vault.ErrDamaged)})
		} else {
			p.fork(c, w.last)
		}
	}
	for _, s := range p.snaps {
		if s.at.Seq > w.next {
			name := ledger.SegmentName(w.next)
			p.found(Finding{Object: name, What: what(name), State: Missing, Err: fmt.Errorf("the ledger ends before it, %s is made of %d segments: %w",
				s.name, s.at.Seq, vault.ErrDamaged)})
		}
	}
	if p.r.Unproven > 0 && len(p.r.Findings) == 0 {
		p.found(Finding{Object: "checkpoints/", What: "the checkpoints of the ledger", Err: fmt.Errorf("none reaches %d segments: %w", p.r.Unproven, vault.ErrDamaged)})
	}
	for _, s := range p.o.Seen {
		switch _, there := slices.BinarySearch(p.sizes, s.Size); {
		case s.Vault != p.o.Config.ID:
			p.found(Finding{Object: vault.ConfigName, What: what(vault.ConfigName), Err: fmt.Errorf("%s is of vault %s: %w", s.By, s.Vault, ledger.ErrForked)})
		case s.Seq > w.next:
			name := ledger.SegmentName(w.next)
			p.found(Finding{Object: name, What: what(name), State: Rollback, Err: fmt.Errorf("the ledger ends before it, at %d leaves; %s has seen %d segments, %d leaves, root %s: %w",
				w.last.Size, s.By, s.Seq, s.Size, s.Root, ledger.ErrRollback)})
		case !there && s.Size > 0:
			p.lost(s.Size, s.By+" has it")
		}
	}
	if w.newest.Size > 0 && w.next > 0 {
		return nil
	}
	p.keyed = p.claimed // of a vault that nobody has signed yet, all is as likely as the rest
	return p.neverSigned(ctx)
}

// neverSigned makes sure that a vault without a checkpoint is one that no job has signed.
// Whoever appends the second segment signs the first before that, and a job's first segment
// is durable before anything else of it: all that can be there without a checkpoint is what
// a crash of init leaves.
func (p *pass) neverSigned(ctx context.Context) error {
	// It may have been signed since the checkpoints were listed, and gone on.
	for e, err := range p.o.Store.List(ctx, "checkpoints/") {
		if err != nil {
			return err
		}
		size, ok := ledger.CheckpointSize(e.Name)
		if _, seen := slices.BinarySearch(p.sizes, size); !ok || seen {
			continue
		}
		if _, err := ledger.ReadCheckpoint(ctx, p.o.Config, p.o.Store, size); err == nil {
			p.note("the vault was signed for the first time while it was looked at: look again")
			return nil
		}
	}
	missing := func(why string, args ...any) {
		p.found(Finding{Object: "checkpoints/", What: "the checkpoints of the ledger", State: Missing,
			Err: fmt.Errorf("there is none that verifies, though "+why+": %w", append(args, vault.ErrDamaged)...)})
	}
	if p.r.Segments > 1 {
		missing("the ledger has %d segments, and the first is signed before there is a second", p.r.Segments)
		return nil
	}
	for _, folder := range []string{"points/", "catalogs/", "packs/", "tables/"} {
		for _, err := range p.o.Store.List(ctx, folder) {
			if err != nil {
				return err
			}
			missing("jobs have stored %s", folder[:len(folder)-1])
			return nil
		}
	}
	p.note("no checkpoint has been signed yet")
	return nil
}
