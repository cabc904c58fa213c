package saved

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

const (
	// Every is how many segments may be added before the next snapshot: what a
	// reader folds beyond the newest one, some thirty jobs.
	Every = 256
	// keep is how many snapshots stay. The newest may be damaged, or be behind the
	// end of a vault that somebody is reading as it was.
	keep = 3
)

// list returns where the snapshots of a vault are, newest first.
func list(ctx context.Context, st store.Store) (places []ledger.Reached, err error) {
	for e, err := range st.List(ctx, folder) {
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		if at, ok := parseName(e.Name); ok {
			places = append(places, at)
		}
	}
	slices.Reverse(places)
	return places, nil
}

// Reached is how far the ledger was when the newest snapshot was made, by its name
// alone: for ledger.Options.From. It is zero if there is none.
func Reached(ctx context.Context, st store.Store) (ledger.Reached, error) {
	places, err := list(ctx, st)
	if err != nil || len(places) == 0 {
		return ledger.Reached{}, err
	}
	return places[0], nil
}

// Load returns what all facts add up to, to the end of the ledger or, if upTo says
// so, before that position. Snapshots that cannot be used are passed over; the
// errors of those that are damaged come back with the state. It needs PartMeta.
func Load(ctx context.Context, v *vault.Vault, l *ledger.Ledger, upTo *uint64) (s *catalog.State, damaged []error, err error) {
	s = catalog.New()
	places, err := list(ctx, v.Store)
	if err != nil {
		return nil, nil, err
	}
	for _, at := range places {
		if upTo != nil && at.Seq > *upTo {
			continue
		}
		got, err := read(ctx, v, l, at)
		if err == nil {
			s = got
			break
		}
		if ctx.Err() != nil || errors.Is(err, store.ErrNoStore) {
			return nil, nil, err
		}
		if errors.Is(err, vault.ErrDamaged) {
			damaged = append(damaged, err)
		}
	}
	for r, err := range l.Records(ctx, s.Next) {
		if err == nil && upTo != nil && r.Position >= *upTo {
			break
		}
		if err == nil {
			err = s.Apply(r)
		}
		if err != nil {
			return nil, damaged, fmt.Errorf("fold the ledger: %w", err)
		}
	}
	return s, damaged, nil
}

// begin reads the clear beginning of a snapshot, if that is signed, says what the
// object's name does, and is of this very history.
func begin(ctx context.Context, v *vault.Vault, l *ledger.Ledger, at ledger.Reached) (h header, clear []byte, err error) {
	name := objectName(at)
	fail := func(err error) (header, []byte, error) { return h, nil, fmt.Errorf("read %s: %w", name, err) }
	clear = make([]byte, signedSize)
	if _, err := v.Store.Get(ctx, name, 0, clear); errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(fmt.Errorf("cut off: %w: %w", vault.ErrDamaged, err))
	} else if err != nil {
		return fail(err)
	}
	h, err = parseHeader(v.Config, clear)
	switch {
	case err != nil:
		return fail(err)
	case h.at != at:
		return fail(fmt.Errorf("is that of %d: %w", h.at.Seq, vault.ErrDamaged))
	case h.shape != catalog.ImageShape():
		return fail(errUnfit)
	}
	// The ledger is what is true: the snapshot must be of this very history. One
	// behind its end, or of another branch, is of a vault that was set back or
	// copied, for which the ledger and its checkpoints answer.
	if next, _, _ := l.Head(); at.Seq > next {
		return fail(errUnfit)
	}
	size, root, err := l.At(ctx, at.Seq)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", errUnfit, err))
	}
	if size != h.at.Size || root != h.root {
		return fail(errUnfit)
	}
	return h, clear, nil
}

// read returns the state of one snapshot if it may be believed.
func read(ctx context.Context, v *vault.Vault, l *ledger.Ledger, at ledger.Reached) (*catalog.State, error) {
	name := objectName(at)
	fail := func(err error) (*catalog.State, error) { return nil, fmt.Errorf("read %s: %w", name, err) }
	h, clear, err := begin(ctx, v, l, at)
	if err != nil {
		return nil, err
	}
	b, err := store.ReadAll(ctx, v.Store, name, maxObject)
	if err != nil {
		return fail(err)
	}
	if len(b) < signedSize || !bytes.Equal(b[:signedSize], clear) {
		return fail(fmt.Errorf("cut off: %w", vault.ErrDamaged))
	}
	s, err := decode(v, h, b)
	if err != nil {
		return fail(err)
	}
	return s, nil
}

// Save leaves a snapshot of a state if the newest one is Every segments or more
// behind it, and deletes all but the newest three; otherwise a copy of each point
// that is not in the newest. l has signed what s is folded from. Nothing depends on
// it: whoever calls it goes on after an error. It needs PartMeta and PartSign.
func Save(ctx context.Context, v *vault.Vault, l *ledger.Ledger, s *catalog.State) error {
	places, err := list(ctx, v.Store)
	if err != nil {
		return err
	}
	// A snapshot that is ahead of the state is of a vault that was set back. Of the
	// others a name alone says nothing: copies would go that no snapshot stands for.
	places = slices.DeleteFunc(places, func(at ledger.Reached) bool { return at.Seq > s.Next })
	var held uint64 // the newest snapshot holds what is before
	for _, at := range places {
		if _, _, err := begin(ctx, v, l, at); err == nil {
			held = at.Seq
			break
		}
	}
	if s.Next-held < Every {
		return copies(ctx, v, s, held)
	}
	if err := save(ctx, v, l, s, places); err != nil {
		return err
	}
	return copies(ctx, v, s, s.Next)
}

// save puts the snapshot; older are those that are there, newest first.
func save(ctx context.Context, v *vault.Vault, l *ledger.Ledger, s *catalog.State, older []ledger.Reached) error {
	size, root, err := l.At(ctx, s.Next)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	h := header{at: ledger.Reached{Seq: s.Next, Size: size}, root: root, shape: catalog.ImageShape(), hash: s.Hash()}
	name := objectName(h.at)
	b, err := encode(v, h, s)
	if err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	// What does not read back as the state would be passed over by everyone.
	if again, err := parseHeader(v.Config, b); err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	} else if _, err := decode(v, again, b); err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	// A crash before the put leaves nothing, one after it a snapshot and those that
	// are to be deleted.
	err = v.Store.PutNew(ctx, name, int64(len(b)), bytes.NewReader(b))
	if err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("save %s: %w", name, err)
	}
	for n, at := range older {
		if n >= keep-1 && at != h.at {
			if err := v.Store.Delete(ctx, objectName(at)); err != nil && !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("delete old snapshot %s: %w", objectName(at), err)
			}
		}
	}
	return nil
}

// Check checks a snapshot as far as that goes without the password: that the vault's key
// signed it as what its name says, and that its sealed parts are those that were signed.
// It returns the place in the ledger that it is of, and the root there. It reads the
// object once, in pieces. vault.ErrDamaged says that it is none; one of a later version
// passes if its signature does.
func Check(ctx context.Context, cfg vault.Config, st store.Store, name string) (at ledger.Reached, root events.Hash, err error) {
	fail := func(err error) (ledger.Reached, events.Hash, error) {
		return at, root, fmt.Errorf("read %s: %w", name, err)
	}
	named, ok := parseName(name)
	if !ok {
		return fail(fmt.Errorf("not the name of a snapshot: %w", vault.ErrDamaged))
	}
	e, err := store.Stat(ctx, st, name)
	if err != nil {
		return fail(err)
	}
	if e.Size < int64(signedSize) || e.Size > maxObject {
		return fail(fmt.Errorf("%d bytes: %w", e.Size, vault.ErrDamaged))
	}
	sum, b := sha256.New(), make([]byte, 1<<20)
	var h header
	for off := int64(0); off < e.Size; off += int64(len(b)) {
		piece := b[:min(int64(len(b)), e.Size-off)]
		if _, err := st.Get(ctx, name, off, piece); errors.Is(err, io.ErrUnexpectedEOF) {
			return fail(fmt.Errorf("cut off: %w: %w", vault.ErrDamaged, err))
		} else if err != nil {
			return fail(err)
		}
		if off == 0 {
			if h, err = parseHeader(cfg, piece); errors.Is(err, errUnfit) {
				err = fmt.Errorf("%w: %w", vault.ErrNewer, err)
			}
			if err != nil {
				return fail(err)
			}
			piece = piece[signedSize:]
		}
		sum.Write(piece)
	}
	if events.Hash(sum.Sum(nil)) != h.sum || h.at != named {
		return fail(fmt.Errorf("its parts are not those that were signed, or its name is not: %w", vault.ErrDamaged))
	}
	return h.at, h.root, nil
}

// Places returns where the snapshots of a vault are in its ledger, newest first; Name is
// the object of one.
func Places(ctx context.Context, st store.Store) ([]ledger.Reached, error) { return list(ctx, st) }

// Name is the object name of the snapshot of a place.
func Name(at ledger.Reached) string { return objectName(at) }

// Look reads a snapshot for whoever wants to compare it with the ledger: as much of it as
// opens, with the error that keeps it from being believed. fits is false, without an
// error, for one that another version wrote or that is of another history.
func Look(ctx context.Context, v *vault.Vault, l *ledger.Ledger, at ledger.Reached) (s *catalog.State, fits bool, err error) {
	s, err = read(ctx, v, l, at)
	switch {
	case err == nil:
		return s, true, nil
	case errors.Is(err, errUnfit):
		return nil, false, nil
	case !errors.Is(err, vault.ErrDamaged):
		return nil, false, err
	}
	b, readErr := store.ReadAll(ctx, v.Store, objectName(at), maxObject)
	if readErr != nil || len(b) < signedSize {
		return nil, true, err
	}
	h := readHeader(b) // believed for what can be opened with it, and no further
	if got, openErr := catalog.ReadImage(entries(v, h, b[signedSize:])); openErr == nil && h.shape == catalog.ImageShape() {
		s = got
	}
	return s, true, err
}
