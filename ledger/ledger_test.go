package ledger

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

var update = flag.Bool("update", false, "rewrite golden files")

func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// newVault makes a vault in a folder, with the cheapest password there may be.
func newVault(t testing.TB) (*vault.Vault, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "vault")
	st, err := dir.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: kdf, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	return v, root
}

func mustOpen(t testing.TB, v *vault.Vault, o Options) *Ledger {
	t.Helper()
	o.Now = noon
	l, err := Open(t.Context(), v, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fact(n int) events.Fact {
	return events.StageScaled{Stage: "seal", To: uint32(n), Why: fmt.Sprint(n)}
}

func tableIn(n int) []ObjectRef {
	if n%3 != 0 {
		return []ObjectRef{{Name: fmt.Sprintf("packs/j/%d", n), Size: 7}}
	}
	return []ObjectRef{{Name: fmt.Sprintf("tables/j/%d", n), Size: int64(n)}, {Name: fmt.Sprintf("tables/j/%d-b", n)}}
}

// fillUp appends facts from to to-1, one segment each.
func fillUp(t testing.TB, l *Ledger, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if _, err := l.Append(t.Context(), id.Job{1}, []events.Fact{fact(n)}, tableIn(n), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func checkpoint(t testing.TB, l *Ledger) Checkpoint {
	t.Helper()
	c, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// numbers reads back what fillUp wrote.
func numbers(ctx context.Context, l *Ledger, from uint64) (got []int, err error) {
	for r, err := range l.Records(ctx, from) {
		if err != nil {
			return got, err
		}
		if int(r.Position) != int(from)+len(got) {
			return got, fmt.Errorf("record at position %d, want %d", r.Position, int(from)+len(got))
		}
		got = append(got, int(r.Fact.(events.StageScaled).To))
	}
	return got, nil
}

func wantNumbers(t *testing.T, l *Ledger, from, to int) {
	t.Helper()
	got, err := numbers(t.Context(), l, uint64(from))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != to-from || to > from && (got[0] != from || got[len(got)-1] != to-1) {
		t.Fatalf("got %v, want %d to %d", got, from, to-1)
	}
}

func TestTheTreeIsTheOneOfTlog(t *testing.T) {
	var own merkle.Tree
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for n := range int64(700) {
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if own.Root() != events.Hash(want) || !own.Fits() || own.Size != uint64(n) {
			t.Fatalf("size %d: root %s, want %s", n, own.Root(), events.Hash(want))
		}
		leaf := tlog.RecordHash(fmt.Append(nil, n))
		more, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		own = own.With(events.Hash(leaf))
	}
}

func TestWhatIsAppendedIsReadBack(t *testing.T) {
	v, _ := newVault(t)
	l := mustOpen(t, v, Options{})
	wantNumbers(t, l, 0, 0)
	fillUp(t, l, 0, 5)
	checkpoint(t, l)
	fillUp(t, l, 5, 9)
	c := checkpoint(t, l)
	fillUp(t, l, 9, 12)
	wantNumbers(t, l, 0, 12)
	wantNumbers(t, l, 11, 12)
	wantNumbers(t, l, 12, 12)
	if _, size, _ := l.Head(); size != 12+8 {
		t.Errorf("size %d, want one leaf per segment and two per segment with tables", size)
	}
	cache := t.TempDir()
	for _, o := range []Options{{}, {Cache: cache}, {Cache: cache, Remembered: &c}} {
		for _, from := range []int{10, 7, 0} { // behind the checkpoint, before it, all
			wantNumbers(t, mustOpen(t, v, o), from, 12)
		}
		if err := mustOpen(t, v, o).Verify(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// Without the password everything but the records is there.
	ro, err := OpenReadOnly(t.Context(), v.Config, v.Store, Options{Remembered: &c, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	n := 0
	for s, err := range ro.Segments(t.Context(), 0) {
		if err != nil || s.Seq != uint64(n) || len(s.In) != len(tableIn(n)) {
			t.Fatalf("segment %d: %v", n, err)
		}
		n++
	}
	if n != 12 {
		t.Errorf("%d segments, want 12", n)
	}
	if _, err := numbers(t.Context(), ro, 0); !errors.Is(err, vault.ErrNoPart) {
		t.Errorf("records without the password: %v", err)
	}
	if _, err := ro.Append(t.Context(), id.Job{}, []events.Fact{fact(1)}, nil, nil); !errors.Is(err, vault.ErrNoPart) {
		t.Errorf("append without the password: %v", err)
	}
}

func TestACacheCanNotLie(t *testing.T) {
	v, _ := newVault(t)
	fillUp(t, mustOpen(t, v, Options{}), 0, 6)
	cache := t.TempDir()
	l := mustOpen(t, v, Options{Cache: cache})
	checkpoint(t, l)
	wantNumbers(t, l, 0, 6)
	files, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(files) != 6 {
		t.Fatalf("cache holds %v, %v", files, err)
	}
	flip(t, files[1], 300)
	write(t, files[2], read(t, files[3]))
	write(t, files[4], nil)
	write(t, files[5], bytes.Repeat([]byte{1}, 1<<16))
	wantNumbers(t, l, 0, 6)
	wantNumbers(t, mustOpen(t, v, Options{Cache: cache}), 0, 6)
	for n, f := range files {
		if want := read(t, filepath.Join(storeRoot(v), segmentName(uint64(n)))); !bytes.Equal(read(t, f), want) {
			t.Errorf("the cache still holds a wrong %s", f)
		}
	}
}

func storeRoot(v *vault.Vault) string { return v.Store.(*dir.Store).Root() }

func TestTwoWritersAppendAtOnce(t *testing.T) {
	v, _ := newVault(t)
	const each = 200
	var group sync.WaitGroup
	for w := range 2 {
		group.Go(func() {
			st, err := dir.Open(storeRoot(v))
			if err != nil {
				t.Error(err)
				return
			}
			own := *v
			own.Store = st
			l, err := Open(t.Context(), &own, Options{Now: noon})
			if err != nil {
				t.Error(err)
				return
			}
			for n := range each {
				if _, err := l.Append(t.Context(), id.Job{byte(w)}, []events.Fact{fact(n)}, tableIn(n), nil); err != nil {
					t.Error(err)
					return
				}
				if n%50 == 49 {
					if _, err := l.Checkpoint(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	l := mustOpen(t, v, Options{})
	next := map[id.Job]int{}
	var total uint64
	for r, err := range l.Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Position != total || int(r.Fact.(events.StageScaled).To) != next[r.Job] {
			t.Fatalf("position %d holds %v of job %s, want %d", r.Position, r.Fact, r.Job, next[r.Job])
		}
		next[r.Job]++
		total++
	}
	if next[id.Job{0}] != each || next[id.Job{1}] != each {
		t.Errorf("read %v", next)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// A writer that died between segment and checkpoint leaves facts that count.
func TestASegmentWithoutACheckpointIsAdopted(t *testing.T) {
	v, _ := newVault(t)
	dead := mustOpen(t, v, Options{})
	fillUp(t, dead, 0, 3)
	checkpoint(t, dead)
	fillUp(t, dead, 3, 5) // and never heard of again
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 5, 6)
	wantNumbers(t, l, 0, 6)
	c := checkpoint(t, l)
	if c.Seq != 6 {
		t.Errorf("the checkpoint covers %d segments, want 6", c.Seq)
	}
	// The same before there ever was a checkpoint.
	w, _ := newVault(t)
	fillUp(t, mustOpen(t, w, Options{}), 0, 3)
	l = mustOpen(t, w, Options{})
	fillUp(t, l, 3, 4)
	wantNumbers(t, mustOpen(t, w, Options{}), 0, 4)
}

// stumbler fails puts, all before they are done, or one after it was.
type stumbler struct {
	store.Store
	before, after bool
}

func (s *stumbler) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if s.before {
		return errors.New("network is down")
	}
	err := s.Store.PutNew(ctx, name, size, body)
	if s.after {
		s.after = false
		return errors.New("connection reset")
	}
	return err
}

func TestAPutOfUnknownOutcomeIsFoundOut(t *testing.T) {
	v, _ := newVault(t)
	st := &stumbler{Store: v.Store}
	v.Store = st
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 0, 2)
	st.after = true
	fillUp(t, l, 2, 3) // it arrived: no error, and not twice
	st.before = true
	if _, err := l.Append(t.Context(), id.Job{}, []events.Fact{fact(9)}, nil, nil); err == nil {
		t.Error("an append that did not arrive succeeded")
	}
	st.before = false
	fillUp(t, l, 3, 4)
	wantNumbers(t, l, 0, 4)
}

func TestTooLargeIsSaidBeforeItIsWritten(t *testing.T) {
	v, _ := newVault(t)
	l := mustOpen(t, v, Options{})
	big := events.GuestInspected{Config: make([]byte, maxBody)}
	if _, err := l.Append(t.Context(), id.Job{}, []events.Fact{big}, nil, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("body: got %v", err)
	}
	many := make([]ObjectRef, 40000)
	if _, err := l.Append(t.Context(), id.Job{}, []events.Fact{fact(1)}, nil, many); !errors.Is(err, ErrTooLarge) {
		t.Errorf("header: got %v", err)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func flip(t testing.TB, path string, at int) {
	t.Helper()
	b := read(t, path)
	b[at%len(b)] ^= 1 << (at % 8)
	write(t, path, b)
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, got)
	}
	if want := read(t, path); !bytes.Equal(got, want) {
		t.Errorf("%s: the form has changed\ngot:\n%s\nwant:\n%s", name, strings.ToValidUTF8(string(got), "?"), want)
	}
}

// Whatever an opener believes of how far the ledger goes, it finds the same end,
// and what is wrong with it.
func TestAWrongIdeaOfTheEndCostsTimeOnly(t *testing.T) {
	v, root := newVault(t)
	l := mustOpen(t, v, Options{})
	var signed []Checkpoint
	for n := range 4 {
		fillUp(t, l, n*10, n*10+10)
		signed = append(signed, checkpoint(t, l))
	}
	fillUp(t, l, 40, 45) // without a checkpoint
	last := signed[3]
	ideas := []Reached{{}, {last.Seq, last.Size}, {last.Seq, last.Size + 1}, {last.Seq + 1, last.Size}, {3, 2}, {1 << 40, 1 << 40}, {0, 1 << 40}, {1 << 40, 0}, {44, 44}, {45, 45}}
	for _, c := range signed {
		ideas = append(ideas, Reached{c.Seq, c.Size})
	}
	for _, from := range ideas {
		got := mustOpen(t, v, Options{From: from})
		if next, size, hash := got.Head(); next != 45 || got.Signed().Size != last.Size {
			t.Errorf("from %v: next %d, size %d, root %s, signed %d", from, next, size, hash, got.Signed().Size)
		}
		wantNumbers(t, got, 0, 45)
		for _, c := range signed {
			if size, hash, err := got.At(t.Context(), c.Seq); err != nil || size != c.Size || hash != c.Root {
				t.Errorf("at %d: %d %s %v", c.Seq, size, hash, err)
			}
		}
		if _, _, err := got.At(t.Context(), 46); err == nil {
			t.Error("a position that does not exist is there")
		}
	}
	for _, gone := range []uint64{38, 39, 42} { // the last two under a checkpoint, and one in the tail
		file := filepath.Join(root, filepath.FromSlash(segmentName(gone)))
		if err := os.Rename(file, file+".gone"); err != nil {
			t.Fatal(err)
		}
		for _, from := range ideas {
			got, err := Open(t.Context(), v, Options{From: from, Now: noon})
			if err == nil {
				_, err = numbers(t.Context(), got, 0)
			}
			if !errors.Is(err, vault.ErrDamaged) {
				t.Errorf("from %v without segment %d: %v", from, gone, err)
			}
		}
		if err := os.Rename(file+".gone", file); err != nil {
			t.Fatal(err)
		}
	}
}
