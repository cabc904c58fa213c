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
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// From damage to a healed point: one chunk is withdrawn, the point is marked with the
// range that needs it, and what is stored again is what it reads from then on.
func TestHealing(t *testing.T) {
	b := newBed(t)
	old := b.point(1)
	x := b.at(old, 4)
	b.rot(x)
	seen := b.withdraw(t.Context(), old)
	s := b.state()
	if len(s.Withdrawn) != 1 || !seen.Bad.Has(key(x.Pack), x.Chunk) || s.Points[old.Point].Damaged == 0 {
		t.Fatalf("withdrawn %v, damaged at %d", s.Withdrawn, s.Points[old.Point].Damaged)
	}
	if d := s.Points[old.Point].Verified.Damaged; len(d) != 1 || d[0].Offset != 4<<16 || d[0].Length != 1<<16 || d[0].Chunk != x.Chunk {
		t.Errorf("marked with %+v", d)
	}
	delete(b.copies, x.Chunk) // nobody knows another
	if done, err := b.work().Replace(t.Context(), s); err != nil || done.Tables != 0 || done.Left != 1 {
		t.Fatalf("healed from nowhere: %+v, %v", done, err)
	}
	again := b.point(1)
	s = b.state()
	done, err := b.work().Replace(t.Context(), s)
	if err != nil || done.Tables != 1 || done.Chunks != 1 || done.Left != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := b.verify(old.Point); err != nil {
		t.Error(err)
	}
	if now := b.state().Points[old.Point]; now.Disks[0].Root != old.Disks[0].Root || now.Disks[0].Chunks[0].Root != old.Disks[0].Chunks[0].Root {
		t.Error("the point is another")
	}
	if b.at(b.state().Points[old.Point].PointCommitted, 4).Pack != b.at(again, 4).Pack {
		t.Error("the chunk is not read where it was stored again")
	}
	if done, err := b.work().Replace(t.Context(), b.state()); err != nil || done.Tables != 0 || done.Left != 0 {
		t.Errorf("there is more to heal: %+v, %v", done, err)
	}
}

// A copy that is damaged itself is named by no table.
func TestDamagedCopy(t *testing.T) {
	b := newBed(t)
	old, again := b.point(1), b.point(1)
	b.rot(b.at(old, 4))
	b.withdraw(t.Context(), old)
	b.rot(b.at(again, 4))
	if done, err := b.work().Replace(t.Context(), b.state()); err != nil || done.Tables != 0 || done.Left != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// A copy that is withdrawn, or retired with its pack, while it is to be named, and a table
// that somebody else replaces: nothing is appended.
func TestHealingThatIsOvertaken(t *testing.T) {
	for _, how := range []string{"withdrawn", "retired", "replaced"} {
		t.Run(how, func(t *testing.T) {
			b := newBed(t)
			old, again := b.point(1), b.point(1)
			b.rot(b.at(old, 4))
			b.withdraw(t.Context(), old)
			s := b.state()
			x := b.at(again, 4)
			b.say(id.NewJob(), map[string]events.Fact{
				"withdrawn": events.ChunkWithdrawn{Job: x.Pack.Job, Pack: x.Pack.Name, Chunks: []id.Chunk{x.Chunk}},
				"retired":   events.PacksRetired{Packs: []events.PackName{{Job: x.Pack.Job, Pack: x.Pack.Name}}},
				"replaced":  events.TableReplaced{Old: old.Disks[0].Chunks[0], New: again.Disks[0].Chunks[0]},
			}[how])
			next, _, _ := b.l.Head()
			if _, err := b.work().Replace(t.Context(), s); !errors.Is(err, ErrStale) {
				t.Errorf("got %v", err)
			}
			if now, _, _ := b.l.Head(); now != next {
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
			p := b.point(1)
			x := b.at(p, 4)
			b.rot(x)
			report, _ := b.verify(p.Point)
			b.rot(x) // mended
			s := b.state()
			b.v.Store = &faulty{Store: b.v.Store, fails: c.fails, err: c.err, all: c.all}
			seen := NewSight()
			err := NewEye(b.v, 300*time.Millisecond, 300*time.Millisecond).Again(t.Context(), s, report.Damages, seen)
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
	p := b.point(1)
	x := b.at(p, 4)
	b.must(os.Remove(b.path(x)))
	report, err := b.verify(p.Point)
	if !errors.Is(err, vault.ErrDamaged) {
		t.Fatal(err)
	}
	seen := NewSight()
	b.must(NewEye(b.v, 0, 0).Again(t.Context(), b.state(), report.Damages, seen))
	facts := seen.Withdraw(b.state())
	if len(facts) != 1 || len(facts[0].(events.ChunkWithdrawn).Chunks) != 0 {
		t.Fatalf("%+v", facts)
	}
	b.say(id.NewJob(), facts...)
	if again := seen.Withdraw(b.state()); len(again) != 0 {
		t.Errorf("withdrawn twice: %+v", again)
	}
	b.say(id.NewJob(), events.PacksRetired{Packs: []events.PackName{{Job: x.Pack.Job, Pack: x.Pack.Name}}})
	seen = NewSight()
	b.must(NewEye(b.v, 0, 0).Again(t.Context(), b.state(), report.Damages, seen))
	if len(seen.Bad) != 0 || seen.Passed == 0 || len(b.state().Bad(0)) != 0 {
		t.Errorf("of a retired pack it is said: %v", seen.Bad)
	}
}

// A pack whose bytes are not those of its name: the chunk that is hit, also where no
// point needs it; where none is, all of the pack.
func TestPackThatIsNotWhatItWas(t *testing.T) {
	b := newBed(t)
	x := b.at(b.point(1), 4)
	b.rot(x)
	seen := NewSight()
	bad, err := NewEye(b.v, 0, 0).Pack(t.Context(), b.state(), key(x.Pack), seen)
	if err != nil || !errors.Is(bad, vault.ErrDamaged) || len(seen.Bad[key(x.Pack)]) != 1 || !seen.Bad.Has(key(x.Pack), x.Chunk) {
		t.Errorf("%v, %v, %v", bad, err, seen.Bad)
	}
	b.say(id.NewJob(), seen.Withdraw(b.state())...)
	if bad, err := NewEye(b.v, 0, 0).Pack(t.Context(), b.state(), key(x.Pack), NewSight()); bad != nil || err != nil {
		t.Errorf("told again: %v, %v", bad, err)
	}
	y := b.at(b.point(2), 0)
	raw, err := os.ReadFile(b.path(y))
	b.must(err)
	raw[2] ^= 1 // before the first chunk
	b.must(os.Remove(b.path(y)))
	b.must(os.WriteFile(b.path(y), raw, 0o600))
	seen = NewSight()
	if bad, err := NewEye(b.v, 0, 0).Pack(t.Context(), b.state(), key(y.Pack), seen); err != nil || bad == nil || !seen.Bad.Whole(key(y.Pack)) {
		t.Errorf("%v, %v, %v", bad, err, seen.Bad)
	}
}

// Facts are bounded, in a fixed order, and of places that are not withdrawn yet.
func TestFactsOfAWithdrawal(t *testing.T) {
	b := newBed(t)
	x := b.at(b.point(1), 0)
	s := b.state()
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
	s.Withdrawn[catalog.WithdrawnChunk{PackKey: key(x.Pack), Domain: b.v.Config.DefaultDomain, Chunk: id.Chunk{5}}] = 1
	seen.add(catalog.PackKey{Job: id.Job{9}}, id.Chunk{1}, vault.ErrDamaged) // of a pack that the ledger does not know
	f := seen.Withdraw(s)
	if len(f) != 1 || !slices.Equal(f[0].(events.ChunkWithdrawn).Chunks, []id.Chunk{{3}, {9}}) {
		t.Errorf("%+v", f)
	}
}

var _ Index = (*chunkindex.Index)(nil)
