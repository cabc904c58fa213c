package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Options are what an opener may say.
type Options struct {
	// Cache is a folder for copies of segments, made if it is missing. Copies
	// are checked each time they are read; the folder may be deleted at any
	// time. Empty: no cache, segments are read from the vault each time.
	Cache string
	// Remembered is the newest checkpoint this host has seen of the vault; nil
	// if it has seen none. It is how a rollback is noticed.
	Remembered *Checkpoint
	// From is a position and size that the ledger is thought to have reached, so
	// that opening looks at names behind it only. A wrong one costs time and
	// changes no outcome.
	From Reached
	// Now gives the times of records and checkpoints.
	Now func() time.Time
}

// Reached says how far a ledger goes: the number of the next segment, and the
// leaves before it.
type Reached struct{ Seq, Size uint64 }

// Ledger is an opened ledger. It may be used by many goroutines.
type Ledger struct {
	cfg   vault.Config
	st    store.Store
	vault *vault.Vault // nil: opened without the password
	cache string
	now   func() time.Time

	// mu guards what follows. It is held while a segment is put, so that one
	// process does not race with itself.
	mu      sync.Mutex
	seq     uint64      // number of the next segment
	head    merkle.Tree // the tree of all segments before seq
	signed  Checkpoint
	own     uint64                 // size of the checkpoint that this Ledger put last, or found durable
	low     uint64                 // segments low ≤ n < seq are proven
	lowTree mark                   // the tree of all segments before low
	leaves  map[uint64]events.Hash // first leaf of every proven segment
	damaged []error                // checkpoints that could not be believed
	unsure  *Segment               // the last one, if it was seen and may not be durable
	lost    uint64                 // puts that another writer was faster with
	read    recent
}

// mark is a size and the root that belongs to it.
type mark struct {
	size uint64
	root events.Hash
}

// Open opens the ledger of a vault: it reads the newest valid checkpoint and
// the segments after it, and verifies that they continue it. Older segments
// are verified when they are read.
func Open(ctx context.Context, v *vault.Vault, o Options) (*Ledger, error) {
	return open(ctx, v.Config, v.Store, v, o)
}

// OpenReadOnly opens a ledger without the password: headers, chain, sums and
// signatures are checked as ever, records cannot be read and nothing appended.
func OpenReadOnly(ctx context.Context, cfg vault.Config, st store.Store, o Options) (*Ledger, error) {
	return open(ctx, cfg, st, nil, o)
}

func open(ctx context.Context, cfg vault.Config, st store.Store, v *vault.Vault, o Options) (*Ledger, error) {
	l := &Ledger{cfg: cfg, st: st, vault: v, cache: o.Cache, now: o.Now, leaves: map[uint64]events.Hash{}}
	if o.Remembered != nil && o.Remembered.Seq > o.From.Seq {
		o.From = Reached{o.Remembered.Seq, o.Remembered.Size}
	}
	if err := l.open(ctx, o.Remembered, o.From); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return l, nil
}

func (l *Ledger) open(ctx context.Context, remembered *Checkpoint, from Reached) error {
	// What is listed must not grow with the age of the vault. Everything before a checkpoint is
	// checked when it is read, so all there is to find out is which checkpoint is the newest and
	// where the segments end, and for both it is enough to look behind any point that the ledger
	// is known to have reached. If nothing there verifies, all names are looked at.
	//
	// Checkpoints first: segments are put before the checkpoint that covers
	// them, so a listing made later holds every segment of any checkpoint seen.
	claimed, err := l.newest(ctx, from.Size)
	if err == nil && l.signed.Note == nil && from.Size > 0 {
		from, l.damaged = Reached{}, nil
		claimed, err = l.newest(ctx, 0)
	}
	if err != nil {
		return err
	}
	count, err := l.countSegments(ctx, max(from.Seq, l.signed.Seq))
	if err != nil {
		return err
	}
	if l.signed.Note == nil {
		if lost := l.neverSigned(ctx, count); lost != nil {
			// The vault may have been signed for the first time, and filled, since the
			// checkpoints were listed. They come before all that was found now.
			l.damaged = nil
			if claimed, err = l.newest(ctx, 0); err != nil {
				return err
			}
			if l.signed.Note == nil {
				return lost
			}
			if count, err = l.countSegments(ctx, l.signed.Seq); err != nil {
				return err
			}
		}
	}
	if l.signed.Seq > count {
		return fmt.Errorf("it ends before %s, checkpoint %s covers %d: %w",
			segmentName(count), checkpointName(l.signed.Size), l.signed.Seq, vault.ErrDamaged)
	}
	l.seq, l.head = l.signed.Seq, l.signed.tree()
	l.low, l.lowTree = l.seq, mark{l.head.Size, l.head.Root()}
	if err := l.refresh(ctx); err != nil {
		return err
	}
	if l.seq < count {
		return fmt.Errorf("%s has gone: %w", segmentName(l.seq), vault.ErrDamaged)
	}
	if l.head.Size < claimed {
		return fmt.Errorf("size %d, but there is a damaged checkpoint for size %d: %w",
			l.head.Size, claimed, errors.Join(l.damaged...))
	}
	if remembered != nil {
		return l.compare(ctx, *remembered)
	}
	return nil
}

// neverSigned makes sure that a vault without a checkpoint is one that nobody has
// signed yet. Whoever appends the second segment signs the first before that, and the
// first segments of a job are durable before anything else that it stores. So where there
// is more than one segment, or anything that a job stores, the checkpoints were lost, and
// whoever signed what is left of the ledger would hide what is not.
func (l *Ledger) neverSigned(ctx context.Context, segments uint64) error {
	lost := "the ledger has no checkpoint"
	if segments == 0 {
		lost = "the vault has no ledger"
	} else if len(l.damaged) > 0 {
		lost = "the ledger has no checkpoint that verifies"
	}
	if segments > 1 {
		return fmt.Errorf("%s, though it has %d segments, and the first is signed before there is a second: %w",
			lost, segments, errors.Join(append([]error{vault.ErrDamaged}, l.damaged...)...))
	}
	for _, folder := range []string{"points/", "catalogs/", "packs/", tableFolder} {
		for _, err := range l.st.List(ctx, folder) {
			if err != nil {
				return err
			}
			return fmt.Errorf("%s, though jobs have stored %s: %w", lost, folder[:len(folder)-1], vault.ErrDamaged)
		}
	}
	return nil
}

// newest finds the newest checkpoint of at least a size whose signature holds.
// Damaged ones are passed over and noted; claimed is the largest size that a name
// says.
func (l *Ledger) newest(ctx context.Context, least uint64) (claimed uint64, err error) {
	var sizes []uint64
	for e, err := range store.ListAfter(ctx, l.st, checkpointFolder, before(checkpointFolder, least)) {
		if err != nil {
			return 0, err
		}
		if size, ok := number(checkpointFolder, e.Name); ok {
			sizes, claimed = append(sizes, size), max(claimed, size)
		}
	}
	for _, size := range slices.Backward(sizes) {
		c, err := l.readCheckpoint(ctx, size)
		if err == nil {
			l.signed = c
			break
		}
		if !errors.Is(err, vault.ErrDamaged) {
			return 0, err
		}
		l.damaged = append(l.damaged, err)
	}
	return claimed, nil
}

func (l *Ledger) readCheckpoint(ctx context.Context, size uint64) (Checkpoint, error) {
	name := checkpointName(size)
	b, err := store.ReadAll(ctx, l.st, name, maxCheckpoint)
	if errors.Is(err, store.ErrLength) {
		err = fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read %s: %w", name, err)
	}
	c, err := ParseCheckpoint(l.cfg, b)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read %s: %w", name, err)
	}
	if c.Size != size {
		return Checkpoint{}, fmt.Errorf("%s is that of size %d: %w", name, c.Size, vault.ErrDamaged)
	}
	return c, nil
}

// before is a name in a folder behind which the numbers from n on are.
func before(folder string, n uint64) string {
	if n == 0 {
		return ""
	}
	return numbered(folder, n-1)
}

// countSegments lists the segments from number next on and returns how many there
// are with those before, having made sure that none is missing in between. That
// those before are there is for reach to find out.
func (l *Ledger) countSegments(ctx context.Context, next uint64) (uint64, error) {
	known := next
	for e, err := range store.ListAfter(ctx, l.st, segmentFolder, before(segmentFolder, next)) {
		if err != nil {
			return 0, err
		}
		seq, ok := number(segmentFolder, e.Name)
		for ok && next < seq {
			// A listing may miss what is put while it runs; asking does not. The
			// first name that really is missing ends this.
			if _, err := store.Stat(ctx, l.st, segmentName(next)); errors.Is(err, store.ErrNotFound) {
				return 0, fmt.Errorf("%s is missing, %s is there: %w", segmentName(next), e.Name, vault.ErrDamaged)
			} else if err != nil {
				return 0, err
			}
			next++
		}
		if ok {
			next = seq + 1
		}
	}
	if next > known || known == 0 {
		return next, nil
	}
	// Nothing is listed: the ledger ends here, or it was cut off before.
	if _, err := store.Stat(ctx, l.st, segmentName(known-1)); errors.Is(err, store.ErrNotFound) {
		return l.countSegments(ctx, 0)
	} else if err != nil {
		return 0, err
	}
	return known, nil
}

// compare holds the ledger against a checkpoint that was seen before.
func (l *Ledger) compare(ctx context.Context, seen Checkpoint) error {
	here := Checkpoint{Seq: l.seq, Size: l.head.Size, Root: l.head.Root()}
	if seen.Vault != l.cfg.ID {
		return fmt.Errorf("remembered checkpoint is of vault %s: %w", seen.Vault, ErrForked)
	}
	if seen.Size > here.Size {
		return fmt.Errorf("it ends at %s, seen was %s: %w", here.position(), seen.position(), ErrRollback)
	}
	then := mark{here.Size, here.Root}
	if seen.Seq < l.seq {
		if err := l.reach(ctx, seen.Seq); err != nil {
			return err
		}
		s, err := l.proven(ctx, seen.Seq)
		if err != nil {
			return err
		}
		then = mark{s.PrevSize, s.PrevRoot}
	}
	if then != (mark{seen.Size, seen.Root}) {
		return fmt.Errorf("it ends at %s and does not continue what was seen, %s: %w", here.position(), seen.position(), ErrForked)
	}
	return nil
}

// Head returns the number of the next segment, how many leaves the tree has
// before it, and its root, as far as this Ledger has read.
func (l *Ledger) Head() (next, size uint64, root events.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq, l.head.Size, l.head.Root()
}

// Signed returns the newest checkpoint this Ledger knows; its Size is zero if
// there is none. It is what to remember.
func (l *Ledger) Signed() Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signed
}

// Damaged lists checkpoints that Open passed over because they do not verify.
// The ledger is whole without them; somebody or something changed them.
func (l *Ledger) Damaged() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.damaged)
}

// Lost returns how often an append of this Ledger found its number taken and had to
// try the next one.
func (l *Ledger) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Refresh adopts the segments that others have appended since.
func (l *Ledger) Refresh(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refresh(ctx)
}

// refresh takes up segments until there is no next one. The caller holds mu,
// or is alone.
func (l *Ledger) refresh(ctx context.Context) error {
	for {
		_, err := l.adopt(ctx)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// adopt reads segment seq, makes sure that it continues the tree and, where
// there are keys, that its body is authentic, and moves the head behind it.
func (l *Ledger) adopt(ctx context.Context) (*Segment, error) {
	s, err := l.fetch(ctx, l.seq, func(s *Segment) error {
		if s.PrevSize != l.head.Size || s.PrevRoot != l.head.Root() {
			return fmt.Errorf("continues size %d, root %s, not %d, %s: %w",
				s.PrevSize, s.PrevRoot, l.head.Size, l.head.Root(), ErrForked)
		}
		if l.vault == nil {
			return nil
		}
		// What is about to be built upon and signed must be ours: anyone can
		// make a header that fits, only a holder of the keys a body.
		_, err := s.open(ctx, l.vault)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.take(s)
	l.unsure = s
	return s, nil
}

func (l *Ledger) take(s *Segment) {
	l.head = s.after()
	l.leaves[s.Seq] = s.leaf()
	l.seq++
}
