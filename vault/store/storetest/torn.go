package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/millrace-backup/millrace/vault/store"
)

func oneWins(t *testing.T, st store.Store) {
	const racers = 8
	for round := range 10 {
		name := fmt.Sprintf("ledger/%d", round)
		var errs [racers]error
		var start, done sync.WaitGroup
		start.Add(1)
		for i := range racers {
			done.Go(func() {
				b := content(uint64(i), 10_000+i)
				start.Wait()
				errs[i] = st.PutNew(t.Context(), name, int64(len(b)), bytes.NewReader(b))
			})
		}
		start.Done()
		done.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("%s: both %d and %d won", name, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, store.ErrExists):
				t.Fatalf("%s: loser %d: want ErrExists, got %v", name, i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("%s: nobody won: %v", name, errs)
		}
		holds(t, st, name, content(uint64(winner), 10_000+winner))
	}
}

func tornPut(t *testing.T, st store.Store) {
	broken := errors.New("the source broke")
	b := content(1, 3<<20)
	for _, c := range []struct {
		name string
		size int64
		body io.Reader
		want error
	}{
		{"fails at once", 10, iotest.ErrReader(broken), broken},
		{"fails half-way", 3 << 20, io.MultiReader(bytes.NewReader(b[:2<<20+5]), iotest.ErrReader(broken)), broken},
		{"fails where it should end", 3 << 20, io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)), broken},
		{"times out", 3 << 20, iotest.TimeoutReader(bytes.NewReader(b)), iotest.ErrTimeout},
		{"one byte short", 3<<20 + 1, bytes.NewReader(b), store.ErrLength},
		{"one byte long", 3<<20 - 1, bytes.NewReader(b), store.ErrLength},
		{"empty and should not be", 1, bytes.NewReader(nil), store.ErrLength},
		{"not empty and should be", 0, bytes.NewReader(b), store.ErrLength},
		{"a negative size", -1, bytes.NewReader(nil), store.ErrLength},
	} {
		wantErr(t, c.name, st.PutNew(t.Context(), "packs/a", c.size, c.body), c.want)
		empty(t, st)
		_, err := st.Get(t.Context(), "packs/a", 0, make([]byte, 1))
		wantErr(t, c.name+": get", err, store.ErrNotFound)
	}
	// The name is free still, also for a reader of awkward habits.
	if err := st.PutNew(t.Context(), "packs/a", 3<<20, iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(b)))); err != nil {
		t.Fatal(err)
	}
	holds(t, st, "packs/a", b)
}

// gate is a body that stops half-way until it is told to go on.
type gate struct {
	first   io.Reader
	reached chan struct{}
	release chan struct{}
	rest    io.Reader
	once    sync.Once
}

func (g *gate) Read(p []byte) (int, error) {
	if n, err := g.first.Read(p); n > 0 || err != io.EOF {
		return n, err
	}
	g.once.Do(func() { close(g.reached) })
	<-g.release
	return g.rest.Read(p)
}

func newGate(b []byte) *gate {
	half := len(b) / 2
	return &gate{first: bytes.NewReader(b[:half]), rest: bytes.NewReader(b[half:]), reached: make(chan struct{}), release: make(chan struct{})}
}

func unfinishedPut(t *testing.T, st store.Store) {
	b := content(1, 3<<20)
	g := newGate(b)
	done := make(chan error, 1)
	go func() { done <- st.PutNew(t.Context(), "a", int64(len(b)), g) }()
	<-g.reached
	empty(t, st)
	_, err := st.Get(t.Context(), "a", 0, make([]byte, 1))
	wantErr(t, "get of an unfinished put", err, store.ErrNotFound)
	put(t, st, "a", []byte("quicker"))
	close(g.release)
	wantErr(t, "the slower put", <-done, store.ErrExists)
	holds(t, st, "a", []byte("quicker"))
}

func cancelledPut(t *testing.T, st store.Store) {
	b := content(1, 6<<20)
	g := newGate(b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- st.PutNew(ctx, "a", int64(len(b)), g) }()
	<-g.reached
	cancel()
	close(g.release)
	wantErr(t, "the cancelled put", <-done, context.Canceled)
	empty(t, st)
}

func begin(t *testing.T, st store.Store) store.Upload {
	t.Helper()
	u, err := store.Begin(t.Context(), st)
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return u
}

func write(t *testing.T, u store.Upload, b []byte) {
	t.Helper()
	if n, err := u.Write(b); n != len(b) || err != nil {
		t.Fatalf("write %d bytes: %d, %v", len(b), n, err)
	}
}

func upload(t *testing.T, st store.Store) {
	b := content(5, 5<<20+11)
	u := begin(t, st)
	for off, step := 0, 1; off < len(b); off, step = off+step, step*3+1 {
		p := slices.Clone(b[off:min(off+step, len(b))])
		write(t, u, p)
		clear(p) // Write must not keep it
	}
	empty(t, st)
	if err := u.Commit(t.Context(), "packs/job/name"); err != nil {
		t.Fatal(err)
	}
	u.Abort() // does nothing now
	holds(t, st, "packs/job/name", b)
	if _, err := u.Write([]byte("x")); err == nil {
		t.Error("write after commit: no error")
	}
	if err := u.Commit(t.Context(), "again"); err == nil {
		t.Error("second commit: no error")
	}
	if err := begin(t, st).Commit(t.Context(), "nothing"); err != nil {
		t.Errorf("commit of an empty upload: %v", err)
	}
	holds(t, st, "nothing", nil)
	u = begin(t, st)
	write(t, u, b)
	wantErr(t, "commit under a bad name", u.Commit(t.Context(), "../a"), store.ErrName)
	if got, want := names(t, st, ""), []string{"nothing", "packs/job/name"}; !slices.Equal(got, want) {
		t.Errorf("list: got %q, want %q", got, want)
	}
}

func aborted(t *testing.T, st store.Store) {
	u := begin(t, st)
	write(t, u, content(1, 2<<20+1))
	u.Abort()
	u.Abort()
	empty(t, st)
	if err := u.Commit(t.Context(), "a"); err == nil {
		t.Error("commit after abort: no error")
	}
	empty(t, st)
}

func uploadLoses(t *testing.T, st store.Store) {
	u, v := begin(t, st), begin(t, st)
	write(t, u, []byte("loser"))
	write(t, v, []byte("loser too"))
	put(t, st, "a", []byte("winner"))
	wantErr(t, "commit over a put", u.Commit(t.Context(), "a"), store.ErrExists)
	wantErr(t, "commit over a put", v.Commit(t.Context(), "a"), store.ErrExists)
	holds(t, st, "a", []byte("winner"))
}

func cancelledUpload(t *testing.T, st store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	u, err := store.Begin(ctx, st)
	if err != nil {
		t.Fatal(err)
	}
	write(t, u, content(1, 100))
	cancel()
	_, err = u.Write(content(1, 4<<20))
	wantErr(t, "write after cancel", err, context.Canceled)
	u.Abort()

	u = begin(t, st)
	write(t, u, content(1, 100))
	wantErr(t, "commit after cancel", u.Commit(ctx, "a"), context.Canceled)
	empty(t, st)
}

func together(t *testing.T, st store.Store) {
	var g sync.WaitGroup
	for w := range 4 {
		g.Go(func() {
			for i := range 8 {
				b := content(uint64(w*100+i), 100_000+i)
				name := fmt.Sprintf("packs/%d/%d", i%2, w*100+i)
				if err := st.PutNew(t.Context(), name, int64(len(b)), bytes.NewReader(b)); err != nil {
					t.Errorf("put %s: %v", name, err)
				}
				if got, err := store.ReadAll(t.Context(), st, name, 1<<20); err != nil || !bytes.Equal(got, b) {
					t.Errorf("read %s back: %d bytes, %v", name, len(got), err)
				}
				if i%3 == 0 {
					if err := st.Delete(t.Context(), name); err != nil {
						t.Errorf("delete %s: %v", name, err)
					}
				}
			}
		})
	}
	g.Go(func() {
		for range 20 {
			for e, err := range st.List(t.Context(), "packs/") {
				if err != nil || e.Size < 100_000 {
					t.Errorf("list: %+v, %v", e, err)
				}
			}
		}
	})
	g.Wait()
	if got := len(names(t, st, "packs/")); got != 4*5 {
		t.Errorf("%d objects remain, want 20", got)
	}
}
