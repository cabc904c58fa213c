package history

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// made makes a vault with a past. Its password has its real price where figures
// are wanted.
func made(t testing.TB, points int, o Options) (*Vault, *Memory) {
	t.Helper()
	st := NewMemory()
	kdf := vault.DefaultKDF()
	if os.Getenv("MILLRACE_POINTS") == "" {
		kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	}
	v, _, err := vault.Create(t.Context(), st, []byte("password"), vault.CreateOptions{KDF: kdf})
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(t.Context(), v, o)
	if err == nil {
		err = h.Make(t.Context(), points)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h, st
}

// opened is what a command does first, with no state directory: the password, the
// ledger, the state.
func opened(t testing.TB, st *Memory) (*vault.Vault, *ledger.Ledger, *catalog.State) {
	t.Helper()
	v, err := vault.Open(t.Context(), st, []byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	from, err := saved.Reached(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), v, ledger.Options{From: from, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s, damaged, err := saved.Load(t.Context(), v, l, nil)
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	return v, l, s
}

// firstByte reads the first block of the newest point.
func firstByte(t testing.TB, v *vault.Vault, s *catalog.State) {
	t.Helper()
	p, err := s.Point("guest-1@latest", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	m, err := table.OpenMap(t.Context(), v, p.Disks[0])
	if err != nil {
		t.Fatal(err)
	}
	for piece, err := range m.Range(t.Context(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		sealed := make([]byte, piece.Stored)
		if _, err := v.Store.Get(t.Context(), vault.PackName(piece.Pack.Job, piece.Pack.Name), int64(piece.PackOffset), sealed); err != nil {
			t.Fatal(err)
		}
	}
}

// pointsWanted are how many points the tests below make: few, unless the
// variable asks for the figures of docs/performance.md.
func pointsWanted(t testing.TB) []int {
	text := os.Getenv("MILLRACE_POINTS")
	if text == "" {
		return []int{40, 160}
	}
	var all []int
	for _, each := range bytes.Fields([]byte(text)) {
		n, err := strconv.Atoi(string(each))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// What it takes to read the first byte of a point, from the vault alone, does not
// depend on the number of points. MILLRACE_POINTS="100 1000 5000" go test -v
// prints the figures.
func TestTheFirstByteIsNearHoweverOldTheVault(t *testing.T) {
	for _, points := range pointsWanted(t) {
		h, st := made(t, points, Options{Snapshots: true})
		st.Take()
		start := time.Now()
		v, l, s := opened(t, st)
		state := time.Since(start)
		counted := st.Take()
		firstByte(t, v, s)
		took := time.Since(start)
		all := st.Take()
		next, size, _ := l.Head()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start = time.Now()
		full, err := catalog.Fold(l.Records(t.Context(), 0))
		if err != nil {
			t.Fatal(err)
		}
		fold := time.Since(start)
		runtime.ReadMemStats(&after)
		folded := st.Take()
		if full.Hash() != s.Hash() || len(s.Listed()) != points {
			t.Fatalf("%d points: the state from a snapshot is not that of the ledger", points)
		}
		t.Logf("%5d points, %d segments, size %d: state in %.3f s with %+v; first byte after %.3f s, %+v more", points, next, size, state.Seconds(), counted, took.Seconds(), all)
		t.Logf("%5d points: all folded anew in %.3f s with %+v", points, fold.Seconds(), folded)
		if gets := counted.Gets + all.Gets; gets > 2*saved.Every+100 {
			t.Errorf("%d points: %d objects were read for the first byte", points, gets)
		}
		if read := counted.Bytes + all.Bytes; read > 64<<20 {
			t.Errorf("%d points: %d bytes were read for the first byte", points, read)
		}
		if listed := counted.Listed + all.Listed; listed > 2*saved.Every {
			t.Errorf("%d points: %d names were listed", points, listed)
		}
		for n := range 2 { // the newest points hold what the disks do
			d := h.Points[len(h.Points)-1-n].Disks[0]
			path := filepath.Join(t.TempDir(), fmt.Sprint(points, n))
			if err := restore.Raw(t.Context(), v, d, path, restore.RawOptions{}); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, h.Disk(len(h.Points)-1-n)) {
				t.Errorf("restored disk differs: %v", err)
			}
		}
	}
}

// However a snapshot is wrong, the state is right.
func TestASnapshotThatIsWrongCostsTimeOnly(t *testing.T) {
	_, st := made(t, 120, Options{Snapshots: true, Guests: 2, Hashes: 4})
	_, _, want := opened(t, st)
	names := []string{}
	for e, err := range st.List(t.Context(), "catalogs/") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, e.Name)
	}
	if len(names) != 3 {
		t.Fatalf("snapshots: %q, want the newest three", names)
	}
	newest := names[2]
	whole := st.objects[newest]
	check := func(what string, wantDamage bool) {
		t.Helper()
		v, err := vault.Open(t.Context(), st, []byte("password"))
		if err != nil {
			t.Fatal(err)
		}
		from, err := saved.Reached(t.Context(), st)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(t.Context(), v, ledger.Options{From: from, Now: time.Now})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		s, damaged, err := saved.Load(t.Context(), v, l, nil)
		if err != nil || s.Hash() != want.Hash() || s.Next != want.Next {
			t.Errorf("%s: another state, %v", what, err)
		}
		for _, err := range damaged {
			if !errors.Is(err, vault.ErrDamaged) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if (len(damaged) > 0) != wantDamage {
			t.Errorf("%s: told %v", what, damaged)
		}
	}
	for at := 0; at < len(whole); at += 1 + len(whole)/60 {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		st.objects[newest] = flipped
		check(fmt.Sprintf("bit flipped at %d of %d", at, len(whole)), at < 6 || at > 7) // another format is no damage
	}
	for _, n := range []int{0, 10, 300, len(whole) - 1} {
		st.objects[newest] = bytes.Clone(whole[:n])
		check(fmt.Sprintf("cut to %d bytes", n), true)
	}
	st.objects[newest] = st.objects[names[0]]
	check("an older one under its name", true)
	st.objects[newest] = whole
	foreign, _ := made(t, 120, Options{Snapshots: true, Guests: 2, Hashes: 4})
	for e := range foreign.Store.List(t.Context(), "catalogs/") {
		st.objects[newest] = foreign.Store.(*Memory).objects[e.Name]
	}
	check("that of another vault", true)
	for _, name := range names {
		if err := st.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	check("none", false)
	// One that says it is of the future, as after a rollback, gives a wrong idea of
	// where the ledger ends.
	far := fmt.Sprintf("catalogs/%020d-%020d", 1<<40, 1<<41)
	st.objects[far] = whole
	st.names = append(st.names, far)
	check("one of the future", false)
}

// A state is looked at as it was before any position, whatever snapshots there are.
func TestThePastIsWhatItWas(t *testing.T) {
	_, st := made(t, 80, Options{Snapshots: true, Guests: 2, Hashes: 8})
	v, l, _ := opened(t, st)
	next, _, _ := l.Head()
	for upTo := uint64(0); upTo <= next; upTo += 1 + next/7 {
		s, _, err := saved.Load(t.Context(), v, l, &upTo)
		if err != nil {
			t.Fatal(err)
		}
		want, err := catalog.Fold(func(yield func(events.Record, error) bool) {
			for r, err := range l.Records(t.Context(), 0) {
				if r.Position >= upTo || !yield(r, err) {
					return
				}
			}
		})
		if err != nil || s.Hash() != want.Hash() {
			t.Errorf("before %d: another state, %v", upTo, err)
		}
	}
}
