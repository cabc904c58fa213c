package layers

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/id"
)

func newScratch(t *testing.T) *spill.Log {
	t.Helper()
	l, err := spill.Create(filepath.Join(t.TempDir(), "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// spoil flips bits in the middle of the scratch file.
func spoil(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		t.Fatal("nothing has been written yet: ", err)
	}
	b[len(b)/2] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNumbersAreThoseOfAMap: what sorting finds out is what a map of all chunks
// would say, with so few chunks that most uses repeat one and with so many that
// they do not fit the budget.
func TestNumbersAreThoseOfAMap(t *testing.T) {
	for _, c := range []struct{ uses, chunks int }{{0, 1}, {1, 1}, {1000, 3}, {1000, 1000}, {130_000, 90_000}, {200_000, 200}} {
		rnd := rand.New(rand.NewPCG(uint64(c.uses), 1))
		u := newUses(newScratch(t))
		var used []uint32
		for range c.uses {
			n := rnd.Uint32N(uint32(c.chunks))
			used = append(used, n)
			if err := u.add(id.Chunk(id.Sum(binary.LittleEndian.AppendUint32(nil, n))), n%7); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.settle(8); err != nil {
			t.Fatal(err)
		}
		next, stop := u.numbers()
		numbers := map[uint32]uint32{}
		packs := map[uint32]bool{}
		for i, n := range used {
			_, again := numbers[n]
			if !again {
				numbers[n] = uint32(len(numbers))
				packs[n%7] = true
			}
			got, err := next()
			if err != nil || got != numbers[n] || u.first.has(uint64(i)) == again {
				t.Fatalf("%+v: use %d is number %d, want %d (%v)", c, i, got, numbers[n], err)
			}
		}
		if c.uses > 1 {
			if _, err := next(); err == nil && len(numbers) < len(used) {
				t.Errorf("%+v: a use too many has a number", c)
			}
		}
		stop()
		for n := range uint32(8) {
			if u.packs[n] != packs[n] {
				t.Errorf("%+v: pack %d is named: %v", c, n, u.packs[n])
			}
		}
	}
}

// TestScratchThatIsDamaged ends the writing.
func TestScratchThatIsDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scratch")
	scratch, err := spill.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	u := newUses(scratch)
	for n := range uint32(200_000) {
		if err := u.add(id.Chunk(id.Sum(binary.LittleEndian.AppendUint32(nil, n/2))), 0); err != nil {
			t.Fatal(err)
		}
	}
	spoil(t, path)
	if err := u.settle(1); !errors.Is(err, spill.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}
