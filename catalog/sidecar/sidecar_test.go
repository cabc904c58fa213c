package sidecar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

var testKey = Key{Vault: id.Vault{1}, Domain: id.Domain{2}, Guest: id.Guest{3}, Disk: id.Disk{4}, Shape: Shape{Size: 10<<18 - 5000, Cell: 1 << 18, Block: 4096}}

func at(n byte) At { return At{id.Point{n}, events.Hash{n}} }

func randomRecord(rnd *rand.Rand, s Shape) *Record {
	r := s.NewRecord()
	for i := range r.Hashes {
		binary.LittleEndian.PutUint64(r.Hashes[i][:], rnd.Uint64())
	}
	r.Changed.Add(rnd.IntN(s.Blocks()))
	r.Starts.Add(rnd.IntN(s.Blocks()))
	return r
}

// model is what a sidecar should say.
type model map[int64]*Record

func checkModel(t *testing.T, folder string, a At, m model) {
	t.Helper()
	f, err := Open(folder, testKey, a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := testKey.NewRecord()
	for n := int64(-1); n <= testKey.Cells(); n++ {
		want := m[n]
		if got := f.Cell(n, r); got != (want != nil) || got && !reflect.DeepEqual(r, want) {
			t.Fatalf("cell %d: %v, known in the model: %v", n, got, want != nil)
		}
	}
}

// step is a job: some cells change, some become zero, some are not read at all.
func step(t *testing.T, rnd *rand.Rand, job, folder string, m model, usable bool) *Update {
	t.Helper()
	path := filepath.Join(job, "update")
	_ = os.Remove(path)
	u, err := Gather(path, testKey)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); n < testKey.Cells(); n++ {
		var b []byte
		switch k := rnd.IntN(4); {
		case k == 0 && m[n] != nil && usable:
			if rnd.IntN(2) == 0 {
				b = Same(nil)
			} // else nothing at all, which says the same
		case k == 1:
			b = Zeros(nil)
			m[n] = testKey.NewRecord()
		case k == 2: // a hole now
			delete(m, n)
			continue
		default:
			m[n] = randomRecord(rnd, testKey.Shape)
			b = Append(nil, m[n])
		}
		if rnd.IntN(3) == 0 { // what a killed worker had sent before
			if err := u.Keep(n, 1, Append(nil, randomRecord(rnd, testKey.Shape))); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.Keep(n, 1, b); err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(4) == 0 { // killed and started again
			if err := u.Close(); err != nil {
				t.Fatal(err)
			}
			if u, err = Gather(path, testKey); err != nil {
				t.Fatal(err)
			}
		}
	}
	return u
}

func TestSidecarFollowsThePoints(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	folder, job := t.TempDir(), t.TempDir()
	m := model{}
	for n := byte(1); n < 40; n++ {
		from := at(n - 1)
		if n == 1 || n%9 == 0 { // the first, or the sidecar was lost
			if n > 1 {
				if err := os.Remove(Path(folder, testKey)); err != nil {
					t.Fatal(err)
				}
			} else {
				from = At{}
			}
			clear(m)
		}
		u := step(t, rnd, job, folder, m, n != 1)
		if err := u.Apply(folder, from, at(n), lost); err != nil {
			t.Fatal(err)
		}
		checkModel(t, folder, at(n), m)
		if _, err := Open(folder, testKey, from); !errors.Is(err, ErrUnusable) {
			t.Errorf("it is still that of the parent: %v", err)
		}
	}
}

// A record of a time before is the one thing that loses a change: block A, then B,
// then A again. Whatever is left of a crash, none is ever shown.
func TestHalfAppliedIsUnusable(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	folder, job := t.TempDir(), t.TempDir()
	m := model{}
	if err := step(t, rnd, job, folder, m, false).Apply(folder, At{}, at(1), lost); err != nil {
		t.Fatal(err)
	}
	base, err := open(Path(folder, testKey), testKey, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	reader, err := Open(folder, testKey, at(1))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var some int64
	for some = range m {
	}
	r := testKey.NewRecord()
	if !reader.Cell(some, r) {
		t.Fatal("a record is not shown")
	}
	u := step(t, rnd, job, folder, m, true)
	base.dirty, base.next = true, at(2).Point // as merge does, and dies
	if err := base.sync(); err != nil {
		t.Fatal(err)
	}
	if reader.Cell(some, r) {
		t.Error("a record of a file that is being changed is shown")
	}
	for _, a := range []At{at(1), at(2)} {
		if _, err := Open(folder, testKey, a); !errors.Is(err, ErrUnusable) {
			t.Errorf("half of it passes for point %s", a.Point)
		}
	}
	// The job's next indexer goes on.
	if err := u.Apply(folder, at(1), at(2), lost); err != nil {
		t.Fatal(err)
	}
	checkModel(t, folder, at(2), m)
	if u, err = Gather(filepath.Join(job, "update"), testKey); err != nil {
		t.Fatal(err)
	}
	if err := u.Apply(folder, at(1), at(2), lost); err != nil { // and does it twice
		t.Fatal(err)
	}
	checkModel(t, folder, at(2), m)
	// Another job finds it dirty, on its way to a point it does not come from.
	base.head.dirty, base.head.next = true, at(7).Point
	if err := base.sync(); err != nil {
		t.Fatal(err)
	}
	clear(m)
	if err := step(t, rnd, job, folder, m, false).Apply(folder, at(2), at(3), lost); err != nil {
		t.Fatal(err)
	}
	checkModel(t, folder, at(3), m)
}

// Any flipped bit leaves what a record said, or nothing.
func TestFlippedBits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	folder, job := t.TempDir(), t.TempDir()
	m := model{}
	if err := step(t, rnd, job, folder, m, false).Apply(folder, At{}, at(1), lost); err != nil {
		t.Fatal(err)
	}
	path := Path(folder, testKey)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var places []int
	for n := range headSize {
		places = append(places, n)
	}
	for n := range int(testKey.Cells()) {
		places = append(places, statesAt+n)
	}
	for range 600 {
		places = append(places, rnd.IntN(len(whole)))
	}
	r := testKey.NewRecord()
	for _, n := range places {
		b := bytes.Clone(whole)
		b[n] ^= 1 << rnd.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(folder, testKey, at(1))
		if (err == nil) != (n >= headSize) {
			t.Fatalf("byte %d flipped: %v", n, err)
		}
		if err != nil {
			continue
		}
		for c := range testKey.Cells() {
			if f.Cell(c, r) && (m[c] == nil || !reflect.DeepEqual(r, m[c])) {
				t.Fatalf("byte %d flipped: cell %d has a record that nobody wrote", n, c)
			}
		}
		f.Close()
	}
	for n := 0; n < len(whole); n += 1000 { // and any that is cut off
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := Open(folder, testKey, at(1)); err == nil {
			for c := range testKey.Cells() {
				if f.Cell(c, r) && (m[c] == nil || !reflect.DeepEqual(r, m[c])) {
					t.Fatalf("cut off at %d: cell %d", n, c)
				}
			}
			f.Close()
		}
	}
}

// What is not exactly this disk's, at this point, is not used.
func TestBinding(t *testing.T) {
	folder, job := t.TempDir(), t.TempDir()
	rnd := rand.New(rand.NewPCG(4, 4))
	if err := step(t, rnd, job, folder, model{}, false).Apply(folder, At{}, at(1), lost); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(Path(folder, testKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Key, *At){
		"vault": func(k *Key, _ *At) { k.Vault[3]++ }, "domain": func(k *Key, _ *At) { k.Domain[3]++ },
		"guest": func(k *Key, _ *At) { k.Guest[3]++ }, "disk": func(k *Key, _ *At) { k.Disk[3]++ },
		"size": func(k *Key, _ *At) { k.Size++ }, "cell": func(k *Key, _ *At) { k.Cell *= 2 }, "block": func(k *Key, _ *At) { k.Block *= 2 },
		"point": func(_ *Key, a *At) { a.Point[3]++ }, "root": func(_ *Key, a *At) { a.Root[3]++ },
		"no size": func(k *Key, _ *At) { k.Size = 0 }, "no block": func(k *Key, _ *At) { k.Block = 0 }, "giant": func(k *Key, _ *At) { k.Cell = 1 << 40 },
	} {
		k, a := testKey, at(1)
		change(&k, &a)
		path := Path(folder, k)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(folder, k, a); !errors.Is(err, ErrUnusable) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func FuzzRecords(f *testing.F) {
	s := Shape{Size: 64 << 10, Cell: 16 << 10, Block: 4 << 10}
	rnd := rand.New(rand.NewPCG(5, 5))
	f.Add(Zeros(Append(Same(nil), randomRecord(rnd, s))), 3)
	f.Add([]byte{1}, 1)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, cells int) {
		if s.Check(b, min(max(cells, 0), 1<<10)) != nil {
			return
		}
		var again []byte
		r := s.NewRecord()
		for rest := b; len(rest) > 0; {
			what, body, more, err := s.split(rest)
			if err != nil {
				t.Fatal(err)
			}
			if rest = more; what == known {
				r.parse(body)
				again = Append(again, r)
			} else {
				again = append(again, what)
			}
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func FuzzHeader(f *testing.F) {
	folder, job := f.TempDir(), f.TempDir()
	u, err := Gather(filepath.Join(job, "u"), testKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(u.header())
	if err := u.Apply(folder, At{}, at(1), lost); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(Path(folder, testKey))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:headSize])
	f.Add([]byte("MRBLOCKS"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(Path(folder, testKey), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(folder, testKey, at(1))
		if err != nil {
			return
		}
		defer s.Close()
		if !bytes.Equal(s.header(), b[:headSize]) {
			t.Fatalf("%x is read as %x", b, s.header())
		}
		s.Cell(0, testKey.NewRecord())
	})
}

// A flipped bit among the states of an update makes no record of the parent's stand
// for a cell that is another by now.
func TestFlippedUpdates(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	for bit := range 8 {
		for _, b := range [][]byte{nil, Zeros(nil), Append(nil, randomRecord(rnd, testKey.Shape))} { // not read, zero, changed
			folder, path := t.TempDir(), filepath.Join(t.TempDir(), "update")
			base, err := Gather(path, testKey)
			if err == nil {
				err = base.Keep(0, 1, Append(nil, randomRecord(rnd, testKey.Shape)))
			}
			if err == nil {
				err = base.Apply(folder, At{}, at(1), lost)
			}
			if err != nil {
				t.Fatal(err)
			}
			u, err := Gather(path, testKey)
			if err == nil && b != nil {
				err = u.Keep(0, 1, b)
			}
			if err == nil {
				err = u.mark(0, u.state(0)^1<<bit)
			}
			if err == nil {
				err = u.Apply(folder, at(1), at(2), lost)
			}
			if err != nil {
				t.Fatal(err)
			}
			f, err := Open(folder, testKey, at(2))
			if err != nil {
				t.Fatal(err)
			}
			if r := testKey.NewRecord(); f.Cell(0, r) {
				t.Errorf("bit %d of a state, %d bytes of records: there is a record, of zeros: %v", bit, len(b), r.Blank())
			}
			f.Close()
		}
	}
}

// lost says of every cell that is not in an update that it was read.
func lost(int64) Left { return LeftLost }
