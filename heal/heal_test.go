package heal

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/heal/healtest"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// From damage to a healed point: one chunk is withdrawn, the point is marked with the
// range that needs it, and what is stored again is what it reads from then on.
func TestHealing(t *testing.T) {
	b := newBed(t)
	old := b.Point(1)
	x := b.At(old, 4)
	b.Rot(x)
	seen := b.withdraw(t.Context(), old)
	s := b.State()
	if len(s.Withdrawn) != 1 || !seen.Bad.Has(key(x.Pack), x.Chunk) || s.Points[old.Point].Damaged == 0 {
		t.Fatalf("withdrawn %v, damaged at %d", s.Withdrawn, s.Points[old.Point].Damaged)
	}
	if d := s.Points[old.Point].Verified.Damaged; len(d) != 1 || d[0].Offset != 4<<16 || d[0].Length != 1<<16 || d[0].Chunk != x.Chunk {
		t.Errorf("marked with %+v", d)
	}
	delete(b.Copies, x.Chunk) // nobody knows another
	if done, err := b.work().Replace(t.Context(), s); err != nil || done.Tables != 0 || done.Left != 1 {
		t.Fatalf("healed from nowhere: %+v, %v", done, err)
	}
	again := b.Point(1)
	s = b.State()
	done, err := b.work().Replace(t.Context(), s)
	if err != nil || done.Tables != 1 || done.Chunks != 1 || done.Left != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := b.Verify(old.Point); err != nil {
		t.Error(err)
	}
	if now := b.State().Points[old.Point]; now.Disks[0].Root != old.Disks[0].Root || now.Disks[0].Chunks[0].Root != old.Disks[0].Chunks[0].Root {
		t.Error("the point is another")
	}
	if b.At(b.State().Points[old.Point].PointCommitted, 4).Pack != b.At(again, 4).Pack {
		t.Error("the chunk is not read where it was stored again")
	}
	if done, err := b.work().Replace(t.Context(), b.State()); err != nil || done.Tables != 0 || done.Left != 0 {
		t.Errorf("there is more to heal: %+v, %v", done, err)
	}
}

// A copy that is damaged itself is named by no table.
func TestDamagedCopy(t *testing.T) {
	b := newBed(t)
	old, again := b.Point(1), b.Point(1)
	b.Rot(b.At(old, 4))
	b.withdraw(t.Context(), old)
	b.Rot(b.At(again, 4))
	if done, err := b.work().Replace(t.Context(), b.State()); err != nil || done.Tables != 0 || done.Left != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// A copy that is withdrawn, or retired with its pack, while it is to be named, and a table
// that somebody else replaces: nothing is appended.
func TestHealingThatIsOvertaken(t *testing.T) {
	for _, how := range []string{"withdrawn", "retired", "replaced"} {
		t.Run(how, func(t *testing.T) {
			b := newBed(t)
			old, again := b.Point(1), b.Point(1)
			b.Rot(b.At(old, 4))
			b.withdraw(t.Context(), old)
			s := b.State()
			x := b.At(again, 4)
			b.Say(id.NewJob(), map[string]events.Fact{
				"withdrawn": events.ChunkWithdrawn{Job: x.Pack.Job, Pack: x.Pack.Name, Chunks: []id.Chunk{x.Chunk}},
				"retired":   events.PacksRetired{Packs: []events.PackName{{Job: x.Pack.Job, Pack: x.Pack.Name}}},
				"replaced":  events.TableReplaced{Old: old.Disks[0].Chunks[0], New: again.Disks[0].Chunks[0]},
			}[how])
			next, _, _ := b.Ledger.Head()
			if _, err := b.work().Replace(t.Context(), s); !errors.Is(err, ErrStale) {
				t.Errorf("got %v", err)
			}
			if now, _, _ := b.Ledger.Head(); now != next {
				t.Error("something was appended")
			}
		})
	}
}

// faulty is a store that fails to read packs for a while.
type faulty struct {
	store.Store
	fails int
	err   error
	all   bool // other objects too
}

func (f *faulty) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	if f.fails > 0 && (f.all || name[0] == 'p') {
		f.fails--
		return 0, &os.PathError{Op: "read", Path: name, Err: f.err}
	}
	return f.Store.Get(ctx, name, off, buf)
}

// What passes is no damage, what a store that is away says is nothing at all, and what
// fails again and again while other objects can be read is damage.
func TestASecondLook(t *testing.T) {
	for name, c := range map[string]struct {
		fails   int
		err     error
		all     bool
		bad     bool
		stopped bool
	}{
		"an I/O error that passes":           {fails: 1, err: syscall.EIO},
		"an I/O error that stays":            {fails: 1 << 30, err: syscall.EIO, bad: true},
		"a disk that reads nothing any more": {fails: 1 << 30, err: syscall.EIO, all: true, stopped: true},
		"a server that does not answer":      {fails: 1 << 30, err: syscall.ETIMEDOUT, stopped: true},
		"a mount that has gone stale":        {fails: 1 << 30, err: syscall.ESTALE, all: true, stopped: true},
		"something nobody has heard of":      {fails: 1 << 30, err: syscall.EMFILE, stopped: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			p := b.Point(1)
			x := b.At(p, 4)
			b.Rot(x)
			report, _ := b.Verify(p.Point)
			b.Rot(x) // mended
			s := b.State()
			b.Vault.Store = &faulty{Store: b.Vault.Store, fails: c.fails, err: c.err, all: c.all}
			seen := NewSight()
			err := NewEye(b.Vault, 300*time.Millisecond, 300*time.Millisecond).Again(t.Context(), s, report.Damages, seen)
			if (err != nil) != c.stopped || len(seen.Bad) > 0 != c.bad || (seen.Passed > 0) != (!c.bad && !c.stopped) {
				t.Errorf("bad %v, passed %d, %v", seen.Bad, seen.Passed, err)
			}
		})
	}
}

// A pack that is missing because it was retired meanwhile is nothing to tell of, one that
// is just missing is withdrawn as a whole, by one fact, and not again the next time.
func TestMissingPacks(t *testing.T) {
	b := newBed(t)
	p := b.Point(1)
	x := b.At(p, 4)
	b.Must(os.Remove(b.Path(x)))
	report, err := b.Verify(p.Point)
	if !errors.Is(err, vault.ErrDamaged) {
		t.Fatal(err)
	}
	seen := NewSight()
	b.Must(NewEye(b.Vault, 0, 0).Again(t.Context(), b.State(), report.Damages, seen))
	facts := seen.Withdraw(b.State())
	if len(facts) != 1 || len(facts[0].(events.ChunkWithdrawn).Chunks) != 0 {
		t.Fatalf("%+v", facts)
	}
	b.Say(id.NewJob(), facts...)
	if again := seen.Withdraw(b.State()); len(again) != 0 {
		t.Errorf("withdrawn twice: %+v", again)
	}
	b.Say(id.NewJob(), events.PacksRetired{Packs: []events.PackName{{Job: x.Pack.Job, Pack: x.Pack.Name}}})
	seen = NewSight()
	b.Must(NewEye(b.Vault, 0, 0).Again(t.Context(), b.State(), report.Damages, seen))
	if len(seen.Bad) != 0 || seen.Passed == 0 || len(b.State().Bad(0)) != 0 {
		t.Errorf("of a retired pack it is said: %v", seen.Bad)
	}
}

// A pack whose bytes are not those of its name: the chunk that is hit, also where no
// point needs it; where none is, all of the pack.
func TestPackThatIsNotWhatItWas(t *testing.T) {
	b := newBed(t)
	x := b.At(b.Point(1), 4)
	b.Rot(x)
	seen := NewSight()
	bad, err := NewEye(b.Vault, 0, 0).Pack(t.Context(), b.State(), key(x.Pack), seen)
	if err != nil || !errors.Is(bad, vault.ErrDamaged) || len(seen.Bad[key(x.Pack)]) != 1 || !seen.Bad.Has(key(x.Pack), x.Chunk) {
		t.Errorf("%v, %v, %v", bad, err, seen.Bad)
	}
	b.Say(id.NewJob(), seen.Withdraw(b.State())...)
	if bad, err := NewEye(b.Vault, 0, 0).Pack(t.Context(), b.State(), key(x.Pack), NewSight()); bad != nil || err != nil {
		t.Errorf("told again: %v, %v", bad, err)
	}
	y := b.At(b.Point(2), 0)
	raw, err := os.ReadFile(b.Path(y))
	b.Must(err)
	raw[2] ^= 1 // before the first chunk
	b.Must(os.Remove(b.Path(y)))
	b.Must(os.WriteFile(b.Path(y), raw, 0o600))
	seen = NewSight()
	if bad, err := NewEye(b.Vault, 0, 0).Pack(t.Context(), b.State(), key(y.Pack), seen); err != nil || bad == nil || !seen.Bad.Whole(key(y.Pack)) {
		t.Errorf("%v, %v, %v", bad, err, seen.Bad)
	}
}

// Facts are bounded, in a fixed order, and of places that are not withdrawn yet.
func TestFactsOfAWithdrawal(t *testing.T) {
	b := newBed(t)
	x := b.At(b.Point(1), 0)
	s := b.State()
	seen := NewSight()
	for n := range MaxChunks + 1 {
		seen.add(key(x.Pack), id.Chunk{byte(n), byte(n >> 8), 1}, vault.ErrDamaged)
	}
	if f := seen.Withdraw(s); len(f) != 1 || len(f[0].(events.ChunkWithdrawn).Chunks) != 0 {
		t.Errorf("of too many: %+v", f)
	}
	seen = NewSight()
	for _, n := range []byte{9, 3, 5} {
		seen.add(key(x.Pack), id.Chunk{n}, vault.ErrDamaged)
	}
	s.Withdrawn[catalog.WithdrawnChunk{PackKey: key(x.Pack), Domain: b.Vault.Config.DefaultDomain, Chunk: id.Chunk{5}}] = 1
	seen.add(catalog.PackKey{Job: id.Job{9}}, id.Chunk{1}, vault.ErrDamaged) // of a pack that the ledger does not know
	f := seen.Withdraw(s)
	if len(f) != 1 || !slices.Equal(f[0].(events.ChunkWithdrawn).Chunks, []id.Chunk{{3}, {9}}) {
		t.Errorf("%+v", f)
	}
}

// bed is a vault that is worked on.
type bed struct{ *healtest.Bed }

func newBed(t *testing.T) bed { return bed{healtest.New(t)} }

// withdraw does what the verb verify does when it finds something.
func (b bed) withdraw(ctx context.Context, p events.PointCommitted) *Sight {
	b.T.Helper()
	report, _ := b.Verify(p.Point)
	s, seen := b.State(), NewSight()
	b.Must(NewEye(b.Vault, time.Millisecond, time.Millisecond).Again(ctx, s, report.Damages, seen))
	facts := seen.Withdraw(s)
	for _, each := range s.Listed() {
		count, ranges, err := Touched(ctx, b.Vault, each.PointCommitted, seen.Bad, 10)
		b.Must(err)
		if count > 0 {
			facts = append(facts, events.PointVerified{Point: each.Point, Mode: "withdrawn", DamagedCount: count, Damaged: ranges})
		}
	}
	if len(facts) > 0 {
		b.Say(id.NewJob(), facts...)
	}
	return seen
}

func (b bed) work() *Work {
	return &Work{Vault: b.Vault, Ledger: b.Ledger, Job: id.NewJob(), Domain: b.Vault.Config.DefaultDomain, Index: b.Copies}
}

var _ Index = (*chunkindex.Index)(nil)
