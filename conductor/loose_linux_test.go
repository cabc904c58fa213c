package conductor

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/restore/salvage"
)

// A disk that is put together from packs alone has at every place what the disk
// had there once, or zeros: splices, whose blocks come from many places, are not laid
// over what lies behind the first of them.
func TestLooseDiskAfterSplices(t *testing.T) {
	b := newBed(t, 16<<20)
	rng := rand.New(rand.NewPCG(7, 7))
	var ever [][]byte
	for n := range 3 {
		if n > 0 {
			scatter(t, b.image, rng)
		}
		b.next(t)
		now, err := os.ReadFile(b.image)
		if err != nil {
			t.Fatal(err)
		}
		ever = append(ever, now)
	}
	for _, folder := range []string{"ledger", "checkpoints", "catalogs", "points", "tables"} {
		if err := os.RemoveAll(filepath.Join(b.root, folder)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := salvage.Survey(t.Context(), b.vault, func(string) {})
	if err != nil || len(r.Loose) != 1 {
		t.Fatalf("%d loose disks, %v", len(r.Loose), err)
	}
	path := filepath.Join(t.TempDir(), "loose")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := r.Loose[0].Write(t.Context(), b.vault, f, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wrong, found := 0, 0
	for at := 0; at < len(got); at += 4096 {
		block := got[at:min(at+4096, len(got))]
		ok := bytes.Equal(block, make([]byte, len(block)))
		for _, then := range ever {
			if !ok && bytes.Equal(block, then[at:at+len(block)]) {
				ok = true
				found++
			}
		}
		if !ok {
			wrong++
		}
	}
	if wrong > 0 || found == 0 {
		t.Errorf("%d blocks are in a place where they never were, %d are right", wrong, found)
	}
}
