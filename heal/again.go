package heal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/patient"
)

// MaxChunks is of how many chunks of one pack a fact says that they are damaged;
// of more it withdraws the whole pack.
const MaxChunks = 1000

// How long a second look waits for what may pass: a disk that reports I/O errors, a
// place that is away.
const (
	waitIO   = 5 * time.Second
	waitGone = time.Minute
)

// Eye takes second looks. It is for one goroutine.
type Eye struct {
	v     *vault.Vault
	store store.Store // a patient one
	ids   map[id.Domain]*chunk.IDs
}

// NewEye looks at a vault. io and gone are how long I/O errors, and a store that is
// away, are waited for; 0: some seconds, and a minute.
func NewEye(v *vault.Vault, io, gone time.Duration) *Eye {
	if io == 0 {
		io = waitIO
	}
	if gone == 0 {
		gone = waitGone
	}
	e := &Eye{v: v, ids: map[id.Domain]*chunk.IDs{}}
	e.store = patient.Wrap(v.Store, &patient.Patience{Probe: e.probe, IO: io, Gone: gone})
	return e
}

// probe asks whether the vault is there and answers: its first object is never
// removed and is read by everybody.
func (e *Eye) probe(ctx context.Context) error {
	_, err := trust.SameVault(ctx, e.v.Store, e.v.ID)
	return err
}

// Sight is what a second look has shown: places that are bad and are not withdrawn
// yet, and why, by pack.
type Sight struct {
	Bad    catalog.Bad
	Causes map[catalog.PackKey]string
	Passed int // damages that were not there any more, or are of packs that nobody needs now
}

// NewSight has seen nothing yet.
func NewSight() *Sight { return &Sight{Bad: catalog.Bad{}, Causes: map[catalog.PackKey]string{}} }

func (s *Sight) add(k catalog.PackKey, c id.Chunk, cause error) {
	s.Bad.Add(k, c)
	if s.Causes[k] == "" {
		s.Causes[k] = cause.Error()
	}
}

// Again looks once more at what a verification has found, with s, the state of the
// ledger now, and enters into seen what stands.
//
// What decides: bytes that are read, and are not those of the chunk, twice. An object
// that is not there, or has another length than the ledger says, twice, in a store that
// answers. An I/O error that comes again and again for some seconds, while the same store
// reads other objects. A store that does not answer, or that is away, decides nothing:
// that is the error, and nothing is withdrawn. Of a pack that was retired meanwhile, as
// one is that prune has moved, nothing is said.
func (e *Eye) Again(ctx context.Context, s *catalog.State, found []restore.Damage, seen *Sight) error {
	packs := map[catalog.PackKey]error{} // as a whole
	for _, d := range found {
		k := catalog.PackKey{Job: d.Pack.Job, Pack: d.Pack.Pack}
		p := s.Packs[k]
		switch {
		case d.Pack.Pack.IsZero():
			continue // a table: there is nothing to store again
		case p == nil || p.Retired != 0:
			seen.Passed++
			continue
		}
		whole, known := packs[k]
		if !known {
			var stop error
			if whole, stop = e.verdict(ctx, e.whole(ctx, p)); stop != nil {
				return stop
			}
			packs[k] = whole
		}
		if whole != nil {
			seen.add(k, id.Chunk{}, whole)
			continue
		}
		if d.Chunk.IsZero() {
			seen.Passed++
			continue
		}
		bad, stop := e.verdict(ctx, prove(ctx, e.store, e.v.Keys, e.ids,
			spot{domain: d.Domain, chunk: d.Chunk, pack: k, at: d.At, stored: uint32(d.Stored), raw: uint32(d.Raw)}))
		switch {
		case stop != nil:
			return stop
		case bad != nil:
			seen.add(k, d.Chunk, bad)
		default:
			seen.Passed++
		}
	}
	return nil
}

// Pack looks at a pack of which not all bytes are those that it is named by, and
// enters the chunks in it that are damaged and were not withdrawn before; if none is, and
// none was, all of the pack. It returns why, if there is anything new.
func (e *Eye) Pack(ctx context.Context, s *catalog.State, k catalog.PackKey, seen *Sight) (bad, stop error) {
	p := s.Packs[k]
	if p == nil || p.Retired != 0 {
		seen.Passed++
		return nil, nil
	}
	if bad, stop = e.verdict(ctx, e.whole(ctx, p)); stop != nil || bad != nil {
		if bad != nil {
			seen.add(k, id.Chunk{}, bad)
		}
		return bad, stop
	}
	info, err := vault.ReadPackFooter(ctx, e.store, e.v.Keys, k.Job, k.Pack)
	if err != nil {
		return nil, err // it was whole just now
	}
	before := s.Bad(0)
	for _, c := range info.Entries {
		if before.Has(k, c.Chunk) {
			continue
		}
		one, stop := e.verdict(ctx, prove(ctx, e.store, e.v.Keys, e.ids,
			spot{domain: info.Domain, chunk: c.Chunk, pack: k, at: int64(c.Offset), stored: c.Stored, raw: c.Raw}))
		if stop != nil {
			return bad, stop
		}
		if one != nil {
			seen.add(k, c.Chunk, one)
			bad = cmp.Or(bad, one)
		}
	}
	if bad != nil || before[k] != nil {
		return bad, nil
	}
	again := &vault.Vault{ID: e.v.ID, Config: e.v.Config, Store: e.store, Keys: e.v.Keys}
	if bad, stop = e.verdict(ctx, restore.Pack(ctx, again, k.Job, k.Pack, p.Size)); bad != nil {
		seen.add(k, id.Chunk{}, bad)
	} else if stop == nil {
		seen.Passed++
	}
	return bad, stop
}

// whole looks at a pack as an object, and at its footer.
func (e *Eye) whole(ctx context.Context, p *catalog.Pack) error {
	name := vault.PackName(p.PackKey.Job, p.PackKey.Pack)
	at, err := store.Stat(ctx, e.store, name)
	if err != nil {
		return err
	}
	if at.Size != p.Size {
		return fmt.Errorf("%s: it has %d bytes, the ledger says %d: %w", name, at.Size, p.Size, vault.ErrDamaged)
	}
	_, err = vault.ReadPackFooter(ctx, e.store, e.v.Keys, p.PackKey.Job, p.PackKey.Pack)
	return err
}

// verdict says whether an error of a second look is damage, or none of it: then
// nothing can be said of the vault now.
func (e *Eye) verdict(ctx context.Context, err error) (bad, stop error) {
	switch {
	case err == nil:
		return nil, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case isDamage(err):
		err = damageOf(err)
	case patient.Failing(err): // for as long as the look was patient
		err = fmt.Errorf("it cannot be read, while other objects can: %w: %w", vault.ErrDamaged, err)
	default:
		return nil, fmt.Errorf("look again: %w", err)
	}
	// What a vault that is just being unmounted says of its objects is nothing.
	if probed := e.probe(ctx); probed != nil {
		return nil, fmt.Errorf("look again: the vault does not answer: %w", probed)
	}
	return err, nil
}

// isDamage: what the store and the vault say of bytes that are wrong or not there.
func isDamage(err error) bool {
	return errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrNewer) || errors.Is(err, store.ErrNotFound) || errors.Is(err, io.ErrUnexpectedEOF)
}

func damageOf(err error) error {
	if errors.Is(err, vault.ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", err, vault.ErrDamaged)
}

// Withdraw are the facts that withdraw what was seen and is not withdrawn yet.
func (s *Sight) Withdraw(now *catalog.State) (out []events.Fact) {
	for _, k := range slices.SortedFunc(maps.Keys(s.Bad), compareKeys) {
		p := now.Packs[k]
		if p == nil || p.Retired != 0 {
			continue
		}
		is := func(c id.Chunk) bool {
			_, done := now.Withdrawn[catalog.WithdrawnChunk{PackKey: k, Domain: p.Domain, Chunk: c}]
			return done
		}
		f := events.ChunkWithdrawn{Domain: p.Domain, Job: k.Job, Pack: k.Pack, Cause: s.Causes[k]}
		if is(id.Chunk{}) {
			continue
		}
		if !s.Bad.Whole(k) && len(s.Bad[k]) <= MaxChunks {
			for c := range s.Bad[k] {
				if !is(c) {
					f.Chunks = append(f.Chunks, c)
				}
			}
			if len(f.Chunks) == 0 {
				continue
			}
			slices.SortFunc(f.Chunks, id.Chunk.Compare)
		}
		out = append(out, f)
	}
	return out
}

func compareKeys(a, b catalog.PackKey) int {
	return cmp.Or(slices.Compare(a.Job[:], b.Job[:]), slices.Compare(a.Pack[:], b.Pack[:]))
}

// spot is where a chunk should be.
type spot struct {
	domain      id.Domain
	chunk       id.Chunk
	pack        catalog.PackKey
	at          int64
	stored, raw uint32
}

// prove reads a chunk and compares it with its id.
func prove(ctx context.Context, st store.Store, keys *vault.Keys, ids map[id.Domain]*chunk.IDs, s spot) error {
	name := vault.PackName(s.pack.Job, s.pack.Pack)
	if s.at < 0 || s.at+int64(s.stored) > vault.MaxPack || s.raw > vault.MaxChunk || s.stored > vault.MaxChunk+vault.Overhead+16 {
		return fmt.Errorf("%s: a chunk of %d bytes at %d: %w", name, s.stored, s.at, vault.ErrDamaged)
	}
	of := ids[s.domain]
	if of == nil {
		k, err := keys.IDKey(s.domain)
		if err != nil {
			return err
		}
		of = chunk.NewIDs(k)
		ids[s.domain] = of
	}
	sealed := make([]byte, s.stored)
	if _, err := st.Get(ctx, name, s.at, sealed); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	plain, err := keys.Decode(s.domain, s.chunk, sealed, nil, of)
	if err == nil && len(plain) != int(s.raw) {
		err = fmt.Errorf("chunk %s has %d bytes, not %d: %w", id.Short(s.chunk), len(plain), s.raw, vault.ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("%s at %d: %w", name, s.at, err)
	}
	return nil
}
