package lease

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

func newStore(t *testing.T) *dir.Store {
	t.Helper()
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// The name is the form that docs/format/lease.md shows.
func TestNameIsTheOneOfThePage(t *testing.T) {
	job := id.Job{0x01, 0x93, 15: 7}
	name := Name(job, 42)
	if got, n, ok := Parse(name); !ok || got != job || n != 42 {
		t.Fatalf("%s is taken for %s %d %v", name, got, n, ok)
	}
	page, err := os.ReadFile("../../docs/format/lease.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "`"+name+"`") {
		t.Errorf("the page does not show %s", name)
	}
	st := newStore(t)
	h, err := Hold(t.Context(), st, job, Times{Beat: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	body, err := store.ReadAll(t.Context(), st, Name(job, 1), 1<<10)
	if err != nil || string(body) != Name(job, 1) {
		t.Errorf("a heartbeat holds %q, %v", body, err)
	}
	h.End(t.Context())
	if n, err := Newest(t.Context(), st, job); n != 0 || err != nil {
		t.Errorf("heartbeat %d is left behind, %v", n, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{Name(id.Job{1}, 1), Name(id.Job{1}, 1<<64-1), Name(id.Job{}, 0), "leases/", "leases/x/1", "leases//00000000000000000001"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		job, n, ok := Parse(name)
		if ok && Name(job, n) != name {
			t.Fatalf("%q is taken for %q", name, Name(job, n))
		}
	})
}

// faulty fails puts on demand: before the object is there, or after.
type faulty struct {
	store.Store
	mu          sync.Mutex
	before      int // puts that fail and leave nothing
	after       int // puts that fail although the object is there
	puts        chan string
	deleteFails bool
}

var errIO = errors.New("input/output error")

func (s *faulty) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	s.mu.Lock()
	before, after := s.before > 0, s.before <= 0 && s.after > 0
	if before {
		s.before--
	} else if after {
		s.after--
	}
	s.mu.Unlock()
	err := errIO
	if !before {
		if err = s.Store.PutNew(ctx, name, size, body); err == nil && after {
			err = errIO
		}
	}
	s.puts <- name
	return err
}

func (s *faulty) Delete(ctx context.Context, name string) error {
	if s.deleteFails {
		return store.ErrReadOnly
	}
	return s.Store.Delete(ctx, name)
}

func TestHeartbeatsGrowWhateverFails(t *testing.T) {
	for _, appendOnly := range []bool{false, true} {
		st := &faulty{Store: newStore(t), puts: make(chan string), deleteFails: appendOnly}
		job := id.NewJob()
		first := make(chan error, 1)
		var h *Holder
		go func() {
			var err error
			h, err = Hold(t.Context(), st, job, Times{Beat: time.Millisecond})
			first <- err
		}()
		<-st.puts
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		st.mu.Lock()
		st.before, st.after = 2, 1
		st.mu.Unlock()
		var names []string
		for range 6 {
			names = append(names, <-st.puts)
		}
		// 2 fails twice, then is there though the put said no, so it is taken; on it goes.
		want := []uint64{2, 2, 2, 2, 3, 4}
		for i, n := range want {
			if names[i] != Name(job, n) {
				t.Fatalf("heartbeats %v, want numbers %v", names, want)
			}
		}
		go func() {
			for range st.puts { // whoever is in the middle of one
			}
		}()
		h.End(t.Context())
		close(st.puts)
		last, _ := h.Last()
		n, err := Newest(t.Context(), st.Store, job)
		if err != nil || appendOnly && n < last || !appendOnly && n != 0 {
			t.Errorf("append-only %v: newest %d, last %d, %v", appendOnly, n, last, err)
		}
	}
}

func TestNoVaultNoLease(t *testing.T) {
	st := newStore(t)
	if err := os.RemoveAll(st.Root()); err != nil {
		t.Fatal(err)
	}
	if _, err := Hold(t.Context(), st, id.NewJob(), Times{}); !errors.Is(err, store.ErrNoStore) {
		t.Errorf("got %v", err)
	}
}

func TestWatch(t *testing.T) {
	type look struct {
		after time.Duration
		n     uint64
		want  Verdict
	}
	steady := func(n uint64, count int, end Verdict) (out []look) {
		for range count {
			out = append(out, look{time.Second, n, Undecided})
		}
		out[0].after, out[len(out)-1].want = 0, end
		return out
	}
	for name, looks := range map[string][]look{
		"grows":                 {{0, 7, Undecided}, {time.Second, 7, Undecided}, {time.Second, 8, Alive}},
		"silent":                steady(7, 31, Dead),
		"never had one":         steady(0, 31, Dead),
		"not yet":               steady(7, 30, Undecided),
		"first one comes late":  append(steady(0, 30, Undecided), look{time.Second, 1, Alive}),
		"the last moment":       append(steady(3, 30, Undecided), look{time.Hour, 4, Alive}),
		"gone":                  append(steady(3, 30, Undecided), look{time.Second, 0, Dead}),
		"the looker slept":      {{0, 7, Undecided}, {time.Hour, 7, Undecided}, {time.Hour, 7, Undecided}, {time.Second, 8, Alive}},
		"a clock runs backward": append(steady(7, 30, Undecided), look{-time.Hour, 7, Undecided}, look{time.Second, 7, Dead}),
	} {
		t.Run(name, func(t *testing.T) {
			at := time.Now()
			var w Watch
			for i, l := range looks {
				at = at.Add(l.after)
				if got := w.Look(at, l.n); got != l.want {
					t.Fatalf("look %d: verdict %d, want %d", i, got, l.want)
				}
			}
		})
	}
}

func TestSweep(t *testing.T) {
	st := newStore(t)
	over, lives := id.NewJob(), id.NewJob()
	for _, name := range []string{Name(over, 1), Name(over, 2), Name(lives, 9), "leases/readme", "leases/" + over.String() + "/x"} {
		if err := st.PutNew(t.Context(), name, 1, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(t.Context(), st, func(j id.Job) bool { return j == over }); err != nil {
		t.Fatal(err)
	}
	var left []string
	for e, err := range st.List(t.Context(), Folder) {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, e.Name)
	}
	if len(left) != 3 {
		t.Errorf("left are %v", left)
	}
	if n, err := Newest(t.Context(), st, over); n != 0 || err != nil {
		t.Errorf("what is no heartbeat is taken for number %d, %v", n, err)
	}
}

// What a dead process worked with goes, its logs and the mark stay; a living one's
// folder is not touched, nor one without a mark.
func TestClearDied(t *testing.T) {
	folder := t.TempDir()
	fill := func() {
		t.Helper()
		for _, name := range []string{"log", "index"} {
			if err := os.MkdirAll(filepath.Join(folder, name, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	there := func() (names []string) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	fill()
	if ClearDied(folder, "log") || len(there()) != 2 {
		t.Errorf("a folder without mark: %v is left", there())
	}
	unlock, err := LockFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	if ClearDied(folder, "log") || len(there()) != 3 {
		t.Errorf("a living folder: %v is left", there())
	}
	unlock()
	// As a killed process leaves it: the mark is there, nobody holds it.
	if err := os.WriteFile(filepath.Join(folder, LockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !ClearDied(folder, "log") || !slices.Equal(there(), []string{LockName, "log"}) || !FolderDied(folder) {
		t.Errorf("a dead folder: %v is left", there())
	}
}
