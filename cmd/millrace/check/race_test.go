package check

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/heal/healtest"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// newRun is a verification of all data, begun now.
func newRun(t *testing.T, b *healtest.Bed) (*run, *bytes.Buffer) {
	t.Helper()
	t.Chdir(t.TempDir()) // what is remembered goes there
	var out bytes.Buffer
	app := session.New(nil, &out, &out)
	mine := &vault.Vault{ID: b.Vault.ID, Config: b.Vault.Config, Keys: b.Vault.Keys, Store: &overtaken{Store: b.Vault.Store}}
	l, err := ledger.Open(t.Context(), mine, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	v := &session.Vault{Vault: mine, Ledger: l}
	c := &run{verb: verb{app}, v: v, percent: 100, began: time.Now(), eye: heal.NewEye(mine, time.Millisecond, time.Millisecond), seen: heal.NewSight(),
		told: map[string]bool{}}
	c.start, _, _ = b.Ledger.Head()
	if _, err := v.Now(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, &out
}

// move has a point read another's copies, retires its pack and deletes it: what prune
// does with a sparse pack, and more of it than it may while somebody reads.
func move(b *healtest.Bed, from, to events.PointCommitted) {
	x := b.At(from, 0)
	b.Say(id.NewJob(), events.TableReplaced{Old: from.Disks[0].Chunks[0], New: to.Disks[0].Chunks[0]},
		events.PacksRetired{Packs: []events.PackName{{Job: x.Pack.Job, Pack: x.Pack.Name}}})
	b.Must(os.Remove(b.Path(x)))
}

// A verification that has read where chunks are before prune moves them finds packs
// missing. That is no damage: it looks the points up again, and they are whole.
func TestVerifyWhilePruneMoves(t *testing.T) {
	b := healtest.New(t)
	p, q := b.Point(1), b.Point(1)
	c, out := newRun(t, b)
	move(b, p, q)
	if err := c.point(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conclude(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := b.State()
	if len(c.bad) > 0 || len(s.Withdrawn) > 0 || s.Points[p.Point].Damaged != 0 || !strings.Contains(out.String(), ": whole") {
		t.Errorf("bad %v, withdrawn %v, damaged at %d\n%s", c.bad, s.Withdrawn, s.Points[p.Point].Damaged, out)
	}
}

// A point that is forgotten, pruned and gone while it is verified is not talked about.
func TestVerifyWhileAPointIsForgotten(t *testing.T) {
	b := healtest.New(t)
	p := b.Point(1)
	b.Point(2)
	c, out := newRun(t, b)
	x := b.At(p, 0)
	b.Say(id.NewJob(), events.PointForgotten{Point: p.Point, Guest: p.Guest}, events.PacksRetired{Packs: []events.PackName{{Job: x.Pack.Job, Pack: x.Pack.Name}}})
	b.Must(os.Remove(b.Path(x)))
	if err := c.point(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conclude(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := b.State(); len(c.bad)+len(c.facts)+len(s.Withdrawn) > 0 || !strings.Contains(out.String(), "was forgotten") {
		t.Errorf("bad %v, withdrawn %v\n%s", c.bad, s.Withdrawn, out)
	}
}

// Between what a verification has seen and what it writes down, somebody commits a point
// that needs the same chunk, or another verification withdraws it: the point is marked too,
// and one that was read before it went bad is not called whole.
func TestVerifyThatIsOvertaken(t *testing.T) {
	for _, how := range []string{"committed", "withdrawn"} {
		t.Run(how, func(t *testing.T) {
			b := healtest.New(t)
			p := b.Point(1)
			c, _ := newRun(t, b)
			x := b.At(p, 3)
			late := events.PointCommitted{Point: id.Point{9}, Guest: p.Guest, GuestName: "web", Disks: p.Disks}
			if how == "committed" {
				b.Rot(x)
			}
			if err := c.point(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			var overtakes events.Fact = late
			if how == "withdrawn" {
				b.Rot(x)
				overtakes = events.ChunkWithdrawn{Domain: b.Vault.Config.DefaultDomain, Job: x.Pack.Job, Pack: x.Pack.Name, Chunks: []id.Chunk{x.Chunk}}
			}
			c.v.Store.(*overtaken).by = func() { b.Say(id.NewJob(), overtakes) }
			if _, err := c.conclude(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := b.State()
			if len(s.Withdrawn) != 1 || s.Points[p.Point].Damaged == 0 || how == "committed" && s.Points[late.Point].Damaged == 0 {
				t.Errorf("withdrawn %v, damaged at %d, late %+v", s.Withdrawn, s.Points[p.Point].Damaged, s.Points[late.Point])
			}
			if len(c.bad) != 1 {
				t.Errorf("%d points are told to be damaged", len(c.bad))
			}
			jobs := 0
			for _, j := range s.Jobs {
				if j.Started.Verb == "verify" && j.Finished != nil {
					jobs++
				}
			}
			if jobs != 1 {
				t.Errorf("%d jobs of verify", jobs)
			}
		})
	}
}

// overtaken is a store in which somebody else says something just before the next
// segment is put.
type overtaken struct {
	store.Store
	by func()
}

func (o *overtaken) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if by := o.by; by != nil && strings.HasPrefix(name, "ledger/") {
		o.by = nil
		by()
	}
	return o.Store.PutNew(ctx, name, size, body)
}
