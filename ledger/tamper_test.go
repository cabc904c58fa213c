package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// look opens the ledger of v and reads all of it, with and without the keys,
// and gives the first error of each.
func look(t testing.TB, v *vault.Vault, remembered *Checkpoint) (with, without error) {
	t.Helper()
	o := Options{Remembered: remembered, Now: noon}
	l, with := Open(t.Context(), v, o)
	if with == nil {
		with = l.Verify(t.Context())
	}
	ro, without := OpenReadOnly(t.Context(), v.Config, v.Store, o)
	if without == nil {
		without = ro.Verify(t.Context())
	}
	return with, without
}

// copyVault copies a vault's folder, so that a test may spoil it.
func copyVault(t testing.TB, v *vault.Vault) (*vault.Vault, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(root, os.DirFS(storeRoot(v))); err != nil {
		t.Fatal(err)
	}
	st, err := dir.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	c := *v
	c.Store = st
	return &c, root
}

func TestTamperingShows(t *testing.T) {
	v, _ := newVault(t)
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 0, 6)
	early := checkpoint(t, l)
	// Another history from here on.
	fork, forkRoot := copyVault(t, v)
	other := mustOpen(t, fork, Options{})
	fillUp(t, other, 12, 16) // as many leaves as in the first
	otherSigned := checkpoint(t, other)
	fillUp(t, l, 6, 10)
	late := checkpoint(t, l)
	fillUp(t, l, 10, 12)

	seg := func(root string, n uint64) string { return filepath.Join(root, segmentName(n)) }
	chk := func(root string, c Checkpoint) string { return filepath.Join(root, checkpointName(c.Size)) }
	for _, test := range []struct {
		name       string
		remembered *Checkpoint
		spoil      func(t *testing.T, root string)
		want       error // nil: nothing is wrong
		keysOnly   bool  // only who holds the keys can see it
	}{
		{"nothing", &late, func(*testing.T, string) {}, nil, false},
		{"edited body under a checkpoint", nil, func(t *testing.T, r string) { flip(t, seg(r, 2), len(read(t, seg(r, 2)))-20) }, vault.ErrDamaged, false},
		{"edited body after the checkpoint", nil, func(t *testing.T, r string) { flip(t, seg(r, 11), len(read(t, seg(r, 11)))-20) }, vault.ErrDamaged, false},
		{"cut short", nil, func(t *testing.T, r string) { b := read(t, seg(r, 3)); write(t, seg(r, 3), b[:len(b)/2]) }, vault.ErrDamaged, false},
		{"emptied", nil, func(t *testing.T, r string) { write(t, seg(r, 3), nil) }, vault.ErrDamaged, false},
		{"grown", nil, func(t *testing.T, r string) { write(t, seg(r, 3), append(read(t, seg(r, 3)), 0)) }, vault.ErrDamaged, false},
		{"middle one missing", nil, func(t *testing.T, r string) { remove(t, seg(r, 4)) }, vault.ErrDamaged, false},
		{"first one missing", nil, func(t *testing.T, r string) { remove(t, seg(r, 0)) }, vault.ErrDamaged, false},
		{"covered tail missing", nil, func(t *testing.T, r string) {
			for n := uint64(8); n < 12; n++ {
				remove(t, seg(r, n))
			}
		}, vault.ErrDamaged, false},
		{"two swapped", nil, func(t *testing.T, r string) {
			a, b := read(t, seg(r, 1)), read(t, seg(r, 2))
			write(t, seg(r, 1), b)
			write(t, seg(r, 2), a)
		}, vault.ErrDamaged, false},
		{"one put in place of another", nil, func(t *testing.T, r string) { write(t, seg(r, 11), read(t, seg(r, 10))) }, vault.ErrDamaged, false},
		{"tail of another history", nil, func(t *testing.T, r string) { write(t, seg(r, 7), read(t, seg(forkRoot, 7))) }, vault.ErrDamaged, false},
		{"all of another history, but the checkpoint", nil, func(t *testing.T, r string) {
			for n := uint64(6); n < 10; n++ {
				write(t, seg(r, n), read(t, seg(forkRoot, n)))
			}
		}, vault.ErrDamaged, false},
		{"another history in place of the one that was seen", &late, func(t *testing.T, r string) {
			remove(t, chk(r, late))
			remove(t, seg(r, 11))
			remove(t, seg(r, 10))
			for n := uint64(6); n < 10; n++ {
				write(t, seg(r, n), read(t, seg(forkRoot, n)))
			}
			write(t, chk(r, otherSigned), read(t, chk(forkRoot, otherSigned)))
		}, ErrForked, false},
		{"newest checkpoint edited", nil, func(t *testing.T, r string) { flip(t, chk(r, late), 100) }, vault.ErrDamaged, false},
		{"newest checkpoint edited, what it covered cut off", nil, func(t *testing.T, r string) {
			flip(t, chk(r, late), 100)
			for n := uint64(9); n < 12; n++ {
				remove(t, seg(r, n))
			}
		}, vault.ErrDamaged, false},
		{"older checkpoint put in place of the newest", nil, func(t *testing.T, r string) { write(t, chk(r, late), read(t, chk(r, early))) }, vault.ErrDamaged, false},
		{"checkpoint of another history", nil, func(t *testing.T, r string) {
			write(t, filepath.Join(r, checkpointName(otherSigned.Size)), read(t, chk(forkRoot, otherSigned)))
		}, vault.ErrDamaged, false},
		{"set back to the older checkpoint", &late, func(t *testing.T, r string) {
			remove(t, chk(r, late))
			for n := uint64(6); n < 12; n++ {
				remove(t, seg(r, n))
			}
		}, ErrRollback, false},
		{"emptied vault", &late, func(t *testing.T, r string) {
			for _, f := range []string{"ledger", "checkpoints"} {
				if err := os.RemoveAll(filepath.Join(r, f)); err != nil {
					t.Fatal(err)
				}
			}
		}, ErrRollback, false},
		{"forged segment behind the end", nil, func(t *testing.T, r string) { write(t, seg(r, 12), forge(t, v, l)) }, vault.ErrDamaged, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, root := copyVault(t, v)
			test.spoil(t, root)
			with, without := look(t, c, test.remembered)
			if !errors.Is(with, test.want) {
				t.Errorf("with the password: got %v, want %v", with, test.want)
			}
			if want := test.want; !test.keysOnly && !errors.Is(without, want) {
				t.Errorf("without the password: got %v, want %v", without, want)
			}
			if test.want != nil && with != nil {
				t.Log(with)
			}
		})
	}
}

// forge makes what someone without the keys can: a segment whose clear parts
// fit, around a body of noise.
func forge(t testing.TB, v *vault.Vault, l *Ledger) []byte {
	t.Helper()
	h := Header{Vault: v.ID, Seq: l.seq, PrevSize: l.head.Size, PrevRoot: l.head.Root(), Edge: l.head.Edge}
	body := make([]byte, 200)
	h.BodySum = sha256.Sum256(body)
	clear, err := clearPart(h)
	if err != nil {
		t.Fatal(err)
	}
	return append(clear, body...)
}

// One bit in any byte of any object of the ledger is noticed.
func TestEveryFlippedBitShows(t *testing.T) {
	v, root := newVault(t)
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 0, 3)
	checkpoint(t, l)
	fillUp(t, l, 3, 4)
	for _, name := range []string{segmentName(1), segmentName(3), checkpointName(l.signed.Size)} {
		path := filepath.Join(root, name)
		good := read(t, path)
		for at := range good {
			flip(t, path, at)
			with, without := look(t, v, nil)
			for _, err := range []error{with, without} {
				if err == nil && name == segmentName(3) && with != nil {
					continue // no checkpoint covers it yet: its header shows to who has the keys
				}
				if !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer) {
					t.Errorf("%s byte %d: got %v with the password, %v without", name, at, with, without)
				}
			}
			write(t, path, good)
		}
		t.Logf("%s: %d of %d bytes", name, len(good), len(good))
	}
	if with, without := look(t, v, nil); with != nil || without != nil {
		t.Errorf("put back: %v, %v", with, without)
	}
}

func TestADamagedCheckpointDoesNotHoldUpAWholeLedger(t *testing.T) {
	v, root := newVault(t)
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 0, 3)
	checkpoint(t, l)
	fillUp(t, l, 3, 5)
	flip(t, filepath.Join(root, checkpointName(checkpoint(t, l).Size)), 9)
	l = mustOpen(t, v, Options{})
	wantNumbers(t, l, 0, 5)
	if len(l.Damaged()) != 1 {
		t.Errorf("damaged: %v", l.Damaged())
	}
}

func TestForms(t *testing.T) {
	h := Header{
		Vault: id.Vault{1, 31: 2}, Seq: 7, Job: id.Job{3}, MetaKey: 0x01020304, Time: events.At(noon()),
		In:  []ObjectRef{{Name: "packs/aa/bb", Sum: events.Hash{4}, Size: 5000}, {Name: "tables/aa/cc", Sum: events.Hash{5}, Size: 70000}},
		Out: []ObjectRef{{Name: "packs/dd/ee", Sum: events.Hash{6}, Size: 1}}, BodySum: events.Hash{0xbb, 31: 0xcc},
	}
	before := merkle.Tree{}.With(events.Hash{7}, events.Hash{8}, events.Hash{9})
	h.PrevSize, h.PrevRoot, h.Edge = before.Size, before.Root(), before.Edge
	clear, err := clearPart(h)
	if err != nil {
		t.Fatal(err)
	}
	s := &Segment{Header: h, clear: clear}
	after := s.after()
	text := hex.Dump(clear) + "seal name " + hex.EncodeToString(sealName(clear)) + "\n"
	for _, leaf := range s.leaves() {
		text += "leaf " + leaf.String() + "\n"
	}
	golden(t, "segment.golden", []byte(text+"root "+after.Root().String()+"\n"))
	c := Checkpoint{Vault: h.Vault, Seq: 8, Size: after.Size, Root: after.Root(), Edge: after.Edge, Time: h.Time}
	golden(t, "checkpoint.golden", []byte(c.text()))
}

func FuzzSegment(f *testing.F) {
	v, root := newVault(f)
	l := mustOpen(f, v, Options{})
	fillUp(f, l, 0, 4)
	for n := range uint64(4) {
		s, err := parseSegment(read(f, filepath.Join(root, segmentName(n))))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s.clear[segmentFixed:], s.body, true)
	}
	f.Fuzz(func(t *testing.T, header, body []byte, mend bool) {
		b := binary.BigEndian.AppendUint32([]byte(segmentMagic+"\x00\x01"), uint32(len(header)))
		b = append(append(b, header...), body...)
		if mend && len(header) >= 32 { // else the sum hides all that is behind it
			sum := sha256.Sum256(body)
			copy(b[segmentFixed+len(header)-32:], sum[:])
		}
		s, err := parseSegment(b)
		if err != nil {
			if !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer) {
				t.Fatalf("%v is neither damage nor newer", err)
			}
			return
		}
		after := s.after()
		if !after.Fits() || len(s.bytes()) != len(b) {
			t.Fatalf("tree of %d leaves with %d edges", after.Size, len(after.Edge))
		}
		_, _ = s.open(t.Context(), v)
	})
}

func FuzzCheckpoint(f *testing.F) {
	v, root := newVault(f)
	l := mustOpen(f, v, Options{})
	fillUp(f, l, 0, 5)
	good := read(f, filepath.Join(root, checkpointName(checkpoint(f, l).Size)))
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(v.Config, b)
		if err != nil && !errors.Is(err, vault.ErrDamaged) {
			t.Fatalf("%v is not damage", err)
		}
		if err == nil && (string(b) != string(good) || c.Size == 0) {
			t.Fatalf("a checkpoint nobody signed: %q", b)
		}
	})
}

// The vault may be on a store that cannot stream.
type plain struct{ store.Store }

func TestStoresNeedNoMoreThanTheContract(t *testing.T) {
	v, _ := newVault(t)
	v.Store = plain{v.Store}
	l := mustOpen(t, v, Options{})
	fillUp(t, l, 0, 4)
	wantNumbers(t, mustOpen(t, v, Options{}), 0, 4)
}

// A vault whose ledger and checkpoints have all gone is told from one that was
// never used: a second ledger would hide all points of the first.
func TestLedgerGone(t *testing.T) {
	v, root := newVault(t)
	mustOpen(t, v, Options{})
	for _, name := range []string{"packs/j/1", "tables/j/1", "points/1", "catalogs/1-1"} {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), v, Options{Now: noon}); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("with %s and no ledger: %v, want damage", name, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, v, Options{})
}
