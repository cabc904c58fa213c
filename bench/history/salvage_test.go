package history

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/prune"
	"github.com/millrace-backup/millrace/restore/salvage"
	"github.com/millrace-backup/millrace/vault"
)

// wreck is a vault to take things away from, and what its points held.
type wreck struct {
	*Memory
	whole  map[string][]byte
	points []events.PointCommitted
	disks  map[id.Point][]byte
}

func newWreck(t *testing.T, points int) *wreck {
	t.Helper()
	h, st := made(t, 0, Options{Snapshots: true, Guests: 2, Hashes: 1, DiskSize: 512 << 10, Changes: 2})
	w := &wreck{Memory: st, disks: map[id.Point][]byte{}}
	for n := range points {
		if err := h.Make(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		w.disks[h.Points[n].Point] = h.Disk(n)
	}
	w.points, w.whole = h.Points, maps.Clone(st.objects)
	return w
}

// restoreAll brings everything back.
func (w *wreck) restoreAll() {
	w.objects = maps.Clone(w.whole)
	w.names = slices.Sorted(maps.Keys(w.objects))
}

// lose takes away what begins so.
func (w *wreck) lose(prefixes ...string) (n int) {
	for _, p := range prefixes {
		for _, name := range slices.Clone(w.names) {
			if strings.HasPrefix(name, p) {
				delete(w.objects, name)
				n++
			}
		}
		w.names = slices.Sorted(maps.Keys(w.objects))
	}
	return n
}

func (w *wreck) survey(t *testing.T) (*vault.Vault, salvage.Result) {
	t.Helper()
	v, err := vault.Open(t.Context(), w.Memory, []byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := salvage.Survey(t.Context(), v, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return v, r
}

// check writes every disk of every point found. What is said to be exact is what was
// there; it returns how many are.
func (w *wreck) check(t *testing.T, what string, v *vault.Vault, r salvage.Result) (exact int) {
	t.Helper()
	for _, f := range r.Points {
		path := filepath.Join(t.TempDir(), "image")
		lost, err := f.Write(t.Context(), v, 0, path, nil)
		if err != nil && len(lost) == 0 {
			t.Fatalf("%s: %v", what, err)
		}
		want := w.disks[f.Point]
		got, err := os.ReadFile(path)
		if err != nil {
			got = make([]byte, len(want)) // its map does not open: all is lost
		}
		if f.Whole(0) != (f.Readable(0) == int64(len(want))) {
			t.Errorf("%s: whole %v, readable %d", what, f.Whole(0), f.Readable(0))
		}
		if len(lost) == 0 {
			exact++
			if !bytes.Equal(got, want) {
				t.Errorf("%s: point %s is said to be exact and is not", what, f.Point)
			}
			continue
		}
		for _, x := range lost { // zeros there, and nothing wrong elsewhere
			if !bytes.Equal(got[x.Offset:x.Offset+x.Length], make([]byte, x.Length)) {
				t.Errorf("%s: point %s has bytes where it lost them", what, f.Point)
			}
			copy(got[x.Offset:], want[x.Offset:x.Offset+x.Length])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: point %s has wrong bytes", what, f.Point)
		}
	}
	for _, l := range r.Loose {
		path := filepath.Join(t.TempDir(), "loose")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := l.Write(t.Context(), v, f, func(int, int) {}); err != nil || n.Covered > l.Covered {
			t.Errorf("%s: loose disk %s: %d of %d bytes, %v", what, l.Disk, n.Covered, l.Covered, err)
		}
		f.Close()
		// With every pack there, what later jobs stored lies on top: it is the newest
		// state of the disk, as far as it was stored for this disk.
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(what, "packs/") {
			continue
		}
		for n := len(w.points) - 1; n >= 0; n-- {
			if w.points[n].Disks[0].Disk == l.Disk {
				if want := w.disks[w.points[n].Point]; !bytes.Equal(got, want[:len(got)]) {
					t.Errorf("%s: loose disk %s is not the disk", what, l.Disk)
				}
				break
			}
		}
	}
	return exact
}

// Whatever part of the ledger is lost, the points are found as long as one of the
// places where they are written is left, and what is claimed is so.
func TestPointsAreFoundWithoutTheLedger(t *testing.T) {
	const points = 36
	w := newWreck(t, points)
	v, r := w.survey(t)
	if err := r.Err(); err != nil || len(r.Points) != points || len(r.Loose) != 0 || w.check(t, "whole", v, r) != points {
		t.Fatalf("a whole vault: %d points, %d loose, %v", len(r.Points), len(r.Loose), err)
	}
	for _, c := range []struct {
		what  string
		lose  []string
		exact int
		loose int
	}{
		{"all of the ledger", []string{"ledger/"}, points, 0},
		{"the checkpoints", []string{"checkpoints/"}, points, 0},
		{"ledger and checkpoints", []string{"ledger/", "checkpoints/"}, points, 0},
		{"snapshots and copies", []string{"catalogs/", "points/"}, points, 0},
		{"segments 0 to 99", []string{"ledger/000000000000000000"}, points, 0},
		{"segments 100 to 199, and what else tells of them", []string{"ledger/000000000000000001", "catalogs/", "points/"}, 23, 0},
		{"everything that tells of points", []string{"ledger/", "checkpoints/", "catalogs/", "points/"}, 0, 2},
		{"all tables", []string{"tables/"}, 0, 2},
		{"all but packs", []string{"ledger/", "checkpoints/", "catalogs/", "points/", "tables/"}, 0, 2},
	} {
		w.restoreAll()
		if w.lose(c.lose...) == 0 {
			t.Fatalf("%s: nothing was lost", c.what)
		}
		v, r := w.survey(t)
		if exact := w.check(t, c.what, v, r); exact != c.exact || len(r.Loose) != c.loose {
			t.Errorf("without %s: %d points exact, want %d; %d loose disks, want %d", c.what, exact, c.exact, len(r.Loose), c.loose)
		}
		if r.Err() == nil && !strings.HasPrefix(c.what, "snapshots") {
			t.Errorf("without %s nothing is said to be wrong", c.what)
		}
	}
}

// Points whose chunks have moved are read with the tables of now, whichever of ledger
// and snapshots tells of them, also if a part of the ledger is missing.
func TestMovedPointsAreFound(t *testing.T) {
	const points, kept = 36, 6
	w := newWreck(t, points)
	v, l, s := opened(t, w.Memory)
	for _, p := range s.Listed()[:points-kept] {
		if _, err := l.Append(t.Context(), id.Job{}, []events.Fact{events.PointForgotten{Point: p.Point, Guest: p.Guest}}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	now := func() *catalog.State {
		if err := s.CatchUp(l.Records(t.Context(), s.Next)); err != nil {
			t.Fatal(err)
		}
		return s
	}
	plan, err := prune.Look(t.Context(), v, now(), prune.Options{Full: true, Sparse: 90, Scratch: filepath.Join(t.TempDir(), "rows"), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	at := s.Next
	work := prune.Work{Vault: v, Ledger: l, Job: id.NewJob(), Now: time.Now}
	did, err := work.Retire(t.Context(), plan)
	if err != nil || did.Moved == 0 {
		t.Fatalf("%+v, %v", did, err)
	}
	if _, err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	due, waiting := prune.Due(now(), time.Now().Add(time.Second), work.Job)
	if len(due) == 0 || len(waiting) > 0 {
		t.Fatalf("%d due, %d waiting", len(due), len(waiting))
	}
	moved := 0
	for _, r := range due {
		if err := work.Delete(t.Context(), s, r); err != nil {
			t.Fatal(err)
		}
		now()
	}
	for _, p := range s.Listed() {
		if !reflect.DeepEqual(p.AsCommitted(), p.Disks) {
			moved++
		}
	}
	if _, err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if moved == 0 {
		t.Fatal("no point has moved")
	}
	t.Logf("%d packs moved, %d of %d points have other tables", did.Moved, moved, kept)
	w.whole = maps.Clone(w.objects)
	v, r := w.survey(t)
	if err := r.Err(); err != nil || len(r.Points) != kept || w.check(t, "moved", v, r) != kept {
		t.Errorf("a healthy vault: %d points, %v", len(r.Points), err)
	}
	if w.lose("ledger/00000000000000000009") != 1 {
		t.Fatal("no such segment")
	}
	v, r = w.survey(t)
	if exact := w.check(t, "moved, a segment lost", v, r); exact != kept || r.Err() == nil {
		t.Errorf("without one segment: %d points exact, %v", exact, r.Err())
	}
	// All that is said from the move on is lost, but for a snapshot from later.
	w.restoreAll()
	for s.Next < at+saved.Every {
		if _, err := l.Append(t.Context(), id.Job{}, []events.Fact{events.StateHashed{}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		now()
	}
	if _, err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := saved.Save(t.Context(), v, l, now()); err != nil {
		t.Fatal(err)
	}
	for n := at; n < at+10; n++ {
		w.lose(fmt.Sprintf("ledger/%020d", n))
	}
	v, r = w.survey(t)
	if exact := w.check(t, "moved, a snapshot tells", v, r); exact != kept {
		t.Errorf("without the segments of the move: %d points exact", exact)
	}
}

// Objects one by one: whatever is lost or hit by a flipped bit, nothing that is
// claimed is wrong, and damage of a point is told.
func TestNothingThatIsClaimedIsWrong(t *testing.T) {
	w := newWreck(t, 6)
	step := 1 + len(w.whole)/14
	if testing.Short() {
		step *= 4
	}
	names := slices.Sorted(maps.Keys(w.whole))
	for n := 0; n < len(names); n += step {
		name := names[n]
		if name == "vault" || strings.HasPrefix(name, "keys/") {
			continue
		}
		for _, flip := range []bool{false, true} {
			w.restoreAll()
			if flip {
				b := bytes.Clone(w.objects[name])
				b[len(b)*(n%7)/7] ^= 1
				w.objects[name] = b
			} else {
				w.lose(name)
			}
			what := fmt.Sprintf("%s, flipped %v", name, flip)
			v, r := w.survey(t)
			exact := w.check(t, what, v, r)
			if strings.HasPrefix(name, "ledger/") && (exact != 6 || r.Err() == nil) {
				t.Errorf("%s: %d points exact, %v", what, exact, r.Err())
			}
			if strings.HasPrefix(name, "tables/") && (exact == 6 || r.Err() == nil) {
				t.Errorf("%s: %d points exact, %v", what, exact, r.Err())
			}
		}
	}
}

// A vault whose description is lost opens by its keys.
func TestKeysAloneOpenAVault(t *testing.T) {
	w := newWreck(t, 2)
	w.lose("vault")
	if _, err := vault.Rescue(t.Context(), w.Memory, []byte("wrong")); err == nil || !strings.Contains(err.Error(), vault.ErrWrongKey.Error()) {
		t.Errorf("a wrong password: %v", err)
	}
	v, err := vault.Rescue(t.Context(), w.Memory, []byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := salvage.Survey(t.Context(), v, func(string) {})
	if err != nil || w.check(t, "no description", v, r) != 2 {
		t.Errorf("%d points, %v", len(r.Points), err)
	}
	w.lose("keys/")
	if _, err := vault.Rescue(t.Context(), w.Memory, []byte("password")); err == nil || !strings.Contains(err.Error(), vault.ErrNoVault.Error()) {
		t.Errorf("no keys: %v", err)
	}
}
