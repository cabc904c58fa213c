// Package keyring says which keys open a vault according to its ledger, and which of the
// objects in keys/ that explains.
//
// Read a [Ring] from the clear headers of the ledger, hold it against the store with
// [Ring.Look], decide, and append what was decided with the [Ring.Guard], which refuses if
// somebody else has said something of keys meanwhile ([ErrChanged]: read on, look again).
//
// # How a key comes and goes
//
// Each step is in a segment that is signed before the next step begins, so that every
// object in keys/ is explained at any time, without the password too:
//
//  1. A segment retires the object of a key to come, with its SHA-256: [Announced].
//  2. The object is stored. A crash before it leaves nothing, and after it a [Pending]
//     object: it opens the vault, and the next key command says so in the ledger.
//  3. A segment brings the object in: [Opens].
//  4. A segment retires it, with its SHA-256. Which keys are left is decided by the facts
//     before that segment alone, for the object is there until then: of two who each
//     remove the other's key the second is refused. A crash leaves a [Leaving] object,
//     which the next key command deletes.
//  5. The object is deleted.
//  6. A segment retires it once more, without size and SHA-256. What is there from then on
//     under that name was put back: [Foreign].
//
// A key object that nothing explains, or that is gone and nothing says why, is told and
// left as it is: who wrote it is not known, and a ledger that said "added" or "removed"
// would be the accomplice of who did it.
//
// Vaults of before this package have keys that were brought in after they were stored and
// retired after they were deleted, without size, or, before that, never named: those count
// as brought in if a fact says that they were added.
package keyring

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// ErrChanged: somebody else's fact about keys stands before what was to be appended.
var ErrChanged = errors.New("keys were changed meanwhile")

// maxObject bounds what is read of one, see docs/format/keys.md.
const maxObject = 12 << 20

// Standing is what the ledger and the store together say of a key.
type Standing int

// The standings of a key.
const (
	// Announced: it is to be stored, and is not there yet.
	Announced Standing = iota
	// Pending: it is there, and whoever stored it died before he said so, or is about to.
	Pending
	// Opens: the ledger brought it in and it is there, byte for byte.
	Opens
	// Leaving: it was removed, and is not deleted yet.
	Leaving
	// Removed: it was removed and is not there, or was never stored.
	Removed
	// Missing: nothing says that it was removed, and it is not there.
	Missing
	// Foreign: it is there, and nothing explains that.
	Foreign
	// Damaged: it is there and does not open, or is not what the ledger says.
	Damaged
)

// Ring is what a ledger says of keys. It is for one goroutine.
type Ring struct {
	next uint64 // the first segment that has not been read
	keys map[string]*said
}

// said is the last that was said of an object in keys/.
type said struct {
	ledger.ObjectRef
	in, was bool // it is in; it was in once
}

// gone: it was said to be deleted.
func (s *said) gone() bool { return !s.in && s.Size == 0 }

// Read goes on to where the ledger ends now. Its headers must be genuine also behind the
// last checkpoint, which whoever has folded the facts up to there has made sure of.
func (r *Ring) Read(ctx context.Context, l *ledger.Ledger) error {
	if r.keys == nil {
		r.keys = map[string]*said{}
	}
	for s, err := range l.Segments(ctx, r.next) {
		if err != nil {
			return fmt.Errorf("read which keys open the vault: %w", err)
		}
		for _, o := range s.Out {
			r.say(o, false)
		}
		for _, o := range s.In {
			r.say(o, true)
		}
		r.next = s.Seq + 1
	}
	return nil
}

func (r *Ring) say(o ledger.ObjectRef, in bool) {
	if !strings.HasPrefix(o.Name, "keys/") {
		return
	}
	before := r.keys[o.Name]
	r.keys[o.Name] = &said{ObjectRef: o, in: in, was: in || before != nil && before.was}
}

// Guard refuses with ErrChanged whatever is appended behind a fact about keys that the
// ring has not seen.
func (r *Ring) Guard() *ledger.Guard {
	return &ledger.Guard{Next: r.next, Check: func(rec events.Record) error {
		switch rec.Fact.(type) {
		case events.KeyAdded, events.KeyRemoved, events.KeysRotated:
			return fmt.Errorf("%s at position %d: %w", rec.Kind, rec.Position, ErrChanged)
		}
		return nil
	}}
}

// Key is a key that the ledger names, or that is there.
type Key struct {
	vault.Key                  // of the object if it can be read, else no more than its ID
	Name      string           // of the object
	There     ledger.ObjectRef // what is there; zero if nothing is
	Standing  Standing
	Unnamed   bool  // Opens by a fact alone: no header has named it yet
	Err       error // why it is Damaged, Foreign or Missing, for people
}

// Look holds the ring against what is in the store of v. known are the keys that facts say
// were added. The keys come in the order of their names. Those of other vaults, which
// open nothing, are left out, unless the ledger names them.
func (r *Ring) Look(ctx context.Context, v *vault.Vault, known map[id.Key]events.KeyAdded) ([]Key, error) {
	var out []Key
	seen := map[string]bool{}
	for k, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		bad := errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrNewer)
		if err != nil && (!bad || k.ID.IsZero()) {
			if bad {
				out = append(out, Key{Standing: Damaged, Err: err})
				continue
			}
			return nil, err
		}
		each := Key{Key: k, Name: vault.KeyName(k.ID), Err: err}
		if each.There, err = ref(ctx, v.Store, each.Name); errors.Is(err, store.ErrNotFound) {
			continue // deleted since
		}
		if err != nil {
			return nil, err
		}
		seen[each.Name] = true
		_, fact := known[k.ID]
		r.judge(&each, fact)
		out = append(out, each)
	}
	for name, s := range r.keys {
		if seen[name] {
			continue
		}
		each := Key{Name: name, Standing: Removed}
		if each.ID.UnmarshalText([]byte(strings.TrimPrefix(name, "keys/"))) != nil {
			continue
		}
		switch {
		case s.in:
			each.Standing, each.Err = Missing, fmt.Errorf("%s is missing, and nothing says that it was removed: %w", name, vault.ErrDamaged)
		case !s.gone() && !s.was:
			each.Standing = Announced
		case !s.gone():
			each.Standing = Leaving // it may be deleted, and nothing says so
		}
		out = append(out, each)
	}
	for k := range known {
		if name := vault.KeyName(k); !seen[name] && r.keys[name] == nil {
			out = append(out, Key{Key: vault.Key{ID: k}, Name: name, Standing: Missing,
				Err: fmt.Errorf("%s is missing, and nothing says that it was removed: %w", name, vault.ErrDamaged)})
		}
	}
	slices.SortFunc(out, func(a, b Key) int { return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(a.ID[:], b.ID[:])) })
	return out, nil
}

// judge finds the standing of a key that is there.
func (r *Ring) judge(k *Key, fact bool) {
	s := r.keys[k.Name]
	same := s != nil && s.Sum == k.There.Sum && s.Size == k.There.Size
	switch {
	case k.Err != nil:
		k.Standing = Damaged
	case s == nil && fact:
		k.Standing, k.Unnamed = Opens, true
	case s == nil:
		k.Standing, k.Err = Foreign, fmt.Errorf("%s opens the vault, and nothing says that it was added: %w", k.Name, vault.ErrDamaged)
	case s.in && same:
		k.Standing = Opens
	case s.in:
		k.Standing, k.Err = Damaged, fmt.Errorf("%s is not the object that the ledger names: %w", k.Name, vault.ErrDamaged)
	case s.gone():
		k.Standing, k.Err = Foreign, fmt.Errorf("%s was removed and deleted, and was put back: %w", k.Name, vault.ErrDamaged)
	case !same:
		k.Standing, k.Err = Foreign, fmt.Errorf("%s is not the object that was retired under this name: %w", k.Name, vault.ErrDamaged)
	case s.was:
		k.Standing = Leaving
	default:
		k.Standing = Pending
	}
}

func ref(ctx context.Context, st store.Store, name string) (ledger.ObjectRef, error) {
	b, err := store.ReadAll(ctx, st, name, maxObject)
	if errors.Is(err, store.ErrLength) { // its size says enough
		e, err := store.Stat(ctx, st, name)
		return ledger.ObjectRef{Name: name, Size: e.Size}, err
	}
	if err != nil {
		return ledger.ObjectRef{}, fmt.Errorf("read %s: %w", name, err)
	}
	return Ref(name, b), nil
}

// Ref is how a header names an object with these bytes.
func Ref(name string, b []byte) ledger.ObjectRef {
	return ledger.ObjectRef{Name: name, Sum: sha256.Sum256(b), Size: int64(len(b))}
}

// Newest is the generation of the latest keys that open the vault; -1 if none does.
func Newest(keys []Key) int {
	newest := -1
	for _, k := range keys {
		if k.Standing == Opens {
			newest = max(newest, k.Generation)
		}
	}
	return newest
}

// Left is how many keys of the newest generation open the vault, and how many of them are
// recovery keys, if k does not any more.
func Left(keys []Key, k id.Key) (all, recovery int) {
	newest := Newest(keys)
	for _, each := range keys {
		if each.Standing != Opens || each.Generation < newest || each.ID == k {
			continue
		}
		all++
		if each.Kind == vault.KindRecovery {
			recovery++
		}
	}
	return all, recovery
}
