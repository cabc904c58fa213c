// Package storetest holds a store.Store to every promise its comment makes.
//
// Every implementation calls [Run] in its tests, the fakes included:
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t testing.TB) store.Store { return open(t) })
//	}
//
// open returns a fresh, empty store each time it is called; the suite calls it
// once per subtest and leaves cleaning up to t.Cleanup. Promises about power cuts
// cannot be tested from outside: they are tested with a file system below dir.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/vault/store"
)

// Run holds open's stores to every promise in the comments of store.Store,
// store.Upload and the functions of package store.
func Run(t *testing.T, open func(testing.TB) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"what is put can be got", roundTrip},
		{"a range is got at any place", ranges},
		{"missing is ErrNotFound", missing},
		{"a name is never given twice", neverTwice},
		{"of many racing for a name one wins", oneWins},
		{"a torn put is never visible", tornPut},
		{"an unfinished put is never visible", unfinishedPut},
		{"bad names are refused", badNames},
		{"a name is no folder of another", nested},
		{"the list is in byte order and by prefix", list},
		{"a listing can be left early", listBreak},
		{"a listing can begin behind a name", listAfter},
		{"deleted is gone and can be put again", deleted},
		{"big objects come back whole", big},
		{"a cancelled context ends every call", cancelled},
		{"a put cancelled half-way leaves nothing", cancelledPut},
		{"an upload is named at its end", upload},
		{"an upload that is aborted leaves nothing", aborted},
		{"an upload loses to an existing name", uploadLoses},
		{"an upload cancelled half-way leaves nothing", cancelledUpload},
		{"read all and stat", readAll},
		{"readers, writers and listers do not disturb each other", together},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// content is n bytes that differ from offset to offset and from seed to seed.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewPCG(seed, 0)
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for j := i; j < min(i+8, n); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}

func put(t *testing.T, st store.Store, name string, b []byte) {
	t.Helper()
	if err := st.PutNew(t.Context(), name, int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

// holds fails unless the object is there with exactly these bytes.
func holds(t *testing.T, st store.Store, name string, want []byte) {
	t.Helper()
	got := make([]byte, len(want)+1)
	n, err := st.Get(t.Context(), name, 0, got)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("get %s and one byte more: want io.ErrUnexpectedEOF, got %d bytes and %v", name, n, err)
	}
	if !bytes.Equal(got[:n], want) {
		t.Fatalf("get %s: %d bytes that are not the %d put there", name, n, len(want))
	}
}

func names(t *testing.T, st store.Store, prefix string) []string {
	t.Helper()
	var all []string
	for e, err := range st.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		all = append(all, e.Name)
	}
	return all
}

func empty(t *testing.T, st store.Store) {
	t.Helper()
	if all := names(t, st, ""); len(all) > 0 {
		t.Fatalf("the store should hold nothing, it lists %q", all)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: want %v, got %v", what, want, err)
	}
}

// listAfter: whatever name a listing begins behind, it has those of the whole
// listing that sort behind it.
func listAfter(t *testing.T, st store.Store) {
	all := []string{"a-b", "a/b", "a/b.c", "a/b0", "a/c/d", "a/c/e", "a0", "b"}
	for _, name := range all {
		put(t, st, name, []byte(name))
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/c/", "c"} {
		for _, after := range append([]string{"", "a", "a/", "a/b-", "a/bz", "a/c", "a/c/", "a/c/dd", "zz"}, all...) {
			var want, got []string
			for _, name := range names(t, st, prefix) {
				if name > after {
					want = append(want, name)
				}
			}
			for e, err := range store.ListAfter(t.Context(), st, prefix, after) {
				if err != nil {
					t.Fatalf("list %q after %q: %v", prefix, after, err)
				}
				got = append(got, e.Name)
			}
			if !slices.Equal(got, want) {
				t.Errorf("list %q after %q: %q, want %q", prefix, after, got, want)
			}
		}
	}
}

func roundTrip(t *testing.T, st store.Store) {
	empty(t, st)
	for i, n := range []int{0, 1, 4096, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 17} {
		name := fmt.Sprintf("packs/%d/object-%d", i%2, n)
		b := content(uint64(n), n)
		put(t, st, name, b)
		holds(t, st, name, b)
	}
}

func ranges(t *testing.T, st store.Store) {
	b := content(1, 2<<20+100)
	put(t, st, "a", b)
	size := int64(len(b))
	for _, c := range []struct{ off, length, want int64 }{
		{0, 1, 1}, {0, size, size}, {1, size - 1, size - 1}, {1<<20 - 3, 7, 7}, {size - 1, 1, 1},
		{size - 1, 2, 1}, {size - 5, 4096, 5}, {size, 1, 0}, {size + 1, 1, 0}, {size + 1<<40, 10, 0}, {1<<63 - 1, 10, 0},
		{0, size + 10, size}, {0, 0, 0}, {size, 0, 0}, {size + 7, 0, 0},
	} {
		buf := make([]byte, c.length)
		n, err := st.Get(t.Context(), "a", c.off, buf)
		if int64(n) != c.want {
			t.Errorf("get %d bytes at %d of %d: got %d bytes, want %d (%v)", c.length, c.off, size, n, c.want, err)
		}
		if c.want == c.length && err != nil || c.want < c.length && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("get %d bytes at %d of %d: error %v", c.length, c.off, size, err)
		}
		if n > 0 && !bytes.Equal(buf[:n], b[c.off:c.off+int64(n)]) {
			t.Errorf("get %d bytes at %d of %d: other bytes", c.length, c.off, size)
		}
	}
	if _, err := st.Get(t.Context(), "a", -1, make([]byte, 1)); err == nil {
		t.Error("get at offset -1: no error")
	}
}

func missing(t *testing.T, st store.Store) {
	put(t, st, "there/is", []byte("x"))
	for _, name := range []string{"not", "there/not", "there", "there/is/not"} {
		_, err := st.Get(t.Context(), name, 0, make([]byte, 1))
		wantErr(t, "get "+name, err, store.ErrNotFound)
		_, err = st.Get(t.Context(), name, 0, nil)
		wantErr(t, "get nothing of "+name, err, store.ErrNotFound)
		_, err = store.Stat(t.Context(), st, name)
		wantErr(t, "stat "+name, err, store.ErrNotFound)
		_, err = store.ReadAll(t.Context(), st, name, 100)
		wantErr(t, "read all of "+name, err, store.ErrNotFound)
		wantErr(t, "delete "+name, st.Delete(t.Context(), name), store.ErrNotFound)
	}
	holds(t, st, "there/is", []byte("x"))
}

func neverTwice(t *testing.T, st store.Store) {
	put(t, st, "ledger/1", []byte("first"))
	for _, second := range []string{"first", "second", ""} {
		err := st.PutNew(t.Context(), "ledger/1", int64(len(second)), bytes.NewReader([]byte(second)))
		wantErr(t, "second put", err, store.ErrExists)
	}
	holds(t, st, "ledger/1", []byte("first"))
}

func badNames(t *testing.T, st store.Store) {
	long := string(bytes.Repeat([]byte("a"), store.MaxElement+1))
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a", "a.", "A", "a b", "a\\b", "a\x00b", "ä",
		"c:a", store.Reserved, store.Reserved + "/a", long, string(bytes.Repeat([]byte("a/"), store.MaxName/2)) + "a",
	} {
		wantErr(t, fmt.Sprintf("put %q", name), st.PutNew(t.Context(), name, 1, bytes.NewReader([]byte("x"))), store.ErrName)
		_, err := st.Get(t.Context(), name, 0, make([]byte, 1))
		wantErr(t, fmt.Sprintf("get %q", name), err, store.ErrName)
		wantErr(t, fmt.Sprintf("delete %q", name), st.Delete(t.Context(), name), store.ErrName)
		_, err = store.Stat(t.Context(), st, name)
		wantErr(t, fmt.Sprintf("stat %q", name), err, store.ErrName)
	}
	empty(t, st)
	for _, name := range []string{"a", "0-9_a.b", "tmpx", "b/tmp", string(bytes.Repeat([]byte("a"), store.MaxElement))} {
		put(t, st, name, []byte(name))
	}
}

func nested(t *testing.T, st store.Store) {
	put(t, st, "a", []byte("a"))
	put(t, st, "b/c", []byte("c"))
	wantErr(t, "put below an object", st.PutNew(t.Context(), "a/b", 1, bytes.NewReader([]byte("x"))), store.ErrName)
	wantErr(t, "put over a folder", st.PutNew(t.Context(), "b", 1, bytes.NewReader([]byte("x"))), store.ErrName)
	if got, want := names(t, st, ""), []string{"a", "b/c"}; !slices.Equal(got, want) {
		t.Errorf("list: got %q, want %q", got, want)
	}
}

func list(t *testing.T, st store.Store) {
	all := []string{"a-b", "a.c", "a/b/c", "a/b/d", "a/c", "a0", "b", "packs/00/aa", "packs/00/ab", "packs/01/00", "packs0"}
	slices.Sort(all)
	for _, i := range rand.Perm(len(all)) {
		put(t, st, all[i], content(1, i))
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "packs", "packs/", "packs/0", "packs/00/a", "b", "x", "x/y/z", "a-"} {
		var want []string
		for _, name := range all {
			if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
				want = append(want, name)
			}
		}
		if got := names(t, st, prefix); !slices.Equal(got, want) {
			t.Errorf("list %q:\n got %q\nwant %q", prefix, got, want)
		}
	}
	for e, err := range st.List(t.Context(), "") {
		if i := slices.Index(all, e.Name); err != nil || e.Size != int64(i) {
			t.Errorf("list: %s has %d bytes, want %d (%v)", e.Name, e.Size, i, err)
		}
	}
}

func listBreak(t *testing.T, st store.Store) {
	for i := range 5 {
		put(t, st, fmt.Sprintf("x/%d/y", i), []byte("x"))
	}
	seen := 0
	for range st.List(t.Context(), "x/") {
		if seen++; seen == 2 {
			break
		}
	}
	if seen != 2 {
		t.Errorf("saw %d entries before leaving, want 2", seen)
	}
}

func deleted(t *testing.T, st store.Store) {
	put(t, st, "a/b", []byte("one"))
	put(t, st, "a/c", []byte("stays"))
	if err := st.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "second delete", st.Delete(t.Context(), "a/b"), store.ErrNotFound)
	_, err := st.Get(t.Context(), "a/b", 0, make([]byte, 1))
	wantErr(t, "get after delete", err, store.ErrNotFound)
	if got, want := names(t, st, ""), []string{"a/c"}; !slices.Equal(got, want) {
		t.Errorf("list after delete: got %q, want %q", got, want)
	}
	put(t, st, "a/b", []byte("two"))
	holds(t, st, "a/b", []byte("two"))
	holds(t, st, "a/c", []byte("stays"))
}

func big(t *testing.T, st store.Store) {
	b := content(3, 48<<20+4097)
	put(t, st, "big", b)
	holds(t, st, "big", b)
	if e, err := store.Stat(t.Context(), st, "big"); err != nil || e.Size != int64(len(b)) || e.Name != "big" {
		t.Errorf("stat: %+v, %v", e, err)
	}
}

func readAll(t *testing.T, st store.Store) {
	for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		name, b := fmt.Sprintf("o/%d", n), content(uint64(n), n)
		put(t, st, name, b)
		for _, limit := range []int64{int64(n), int64(n) + 1, 1 << 62} {
			if got, err := store.ReadAll(t.Context(), st, name, limit); err != nil || !bytes.Equal(got, b) {
				t.Errorf("read all of %s with limit %d: %d bytes, %v", name, limit, len(got), err)
			}
		}
		if n > 0 {
			_, err := store.ReadAll(t.Context(), st, name, int64(n)-1)
			wantErr(t, "read all of "+name+" with too small a limit", err, store.ErrLength)
		}
		if e, err := store.Stat(t.Context(), st, name); err != nil || e != (store.Entry{Name: name, Size: int64(n)}) {
			t.Errorf("stat %s: %+v, %v", name, e, err)
		}
	}
}

func cancelled(t *testing.T, st store.Store) {
	put(t, st, "a", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "put", st.PutNew(ctx, "b", 1, bytes.NewReader([]byte("x"))), context.Canceled)
	_, err := st.Get(ctx, "a", 0, make([]byte, 1))
	wantErr(t, "get", err, context.Canceled)
	wantErr(t, "delete", st.Delete(ctx, "a"), context.Canceled)
	err = nil
	for _, err = range st.List(ctx, "") {
		if err != nil {
			break
		}
	}
	wantErr(t, "list", err, context.Canceled)
	if got, want := names(t, st, ""), []string{"a"}; !slices.Equal(got, want) {
		t.Errorf("after cancelled calls: list %q, want %q", got, want)
	}
}
