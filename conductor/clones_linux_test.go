package conductor

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// Clones of a guest are backed up whose chunks are all known, and the packs with them
// are lost before the first point is made. The first, small guest finds it out; of
// the second parcels that refer to them have come, are on their way and are still to
// be sent. The job ends, and both are whole.
func TestClonesWhosePacksAreLost(t *testing.T) {
	const cell, small, large = 64 << 10, 10, 1500
	b := emptyBed(t, vault.CreateOptions{
		CellSize: cell, Cutter: chunk.Params{Name: chunk.Aligned, Min: 4 << 10, Normal: 8 << 10, Max: 32 << 10, Block: 4 << 10, ZeroRun: 8 << 10},
	})
	block, noise := make([]byte, 4<<10), rand.NewChaCha8([32]byte{1})
	f, err := os.Create(b.image)
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(large) { // each cell has a little in it
		_, _ = noise.Read(block)
		if _, err := f.WriteAt(block, n*cell); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(large * cell); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b.backup(t, func(o *Options) { o.ParcelSize = cell })
	lost := filepath.Dir(b.objects(t, "packs")[0])

	whole, err := os.ReadFile(b.image)
	if err != nil {
		t.Fatal(err)
	}
	o, images := b.options(t), map[string][]byte{"a": whole[:small*cell], "b": whole}
	o.Guests, o.ParcelSize = nil, cell // more of them than a queue and a window hold
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(t.TempDir(), name+".raw")
		if err := os.WriteFile(path, images[name], 0o600); err != nil {
			t.Fatal(err)
		}
		clone, err := folder.New(path, folder.Options{Vault: b.vault.ID}).Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o.Guests = append(o.Guests, clone...)
	}
	var once sync.Once
	o.Started = func(stage string, _ uint32, _ int) {
		if stage == flow.Reader { // before snapshot, with which work begins: a guest of ten cells is soon committed
			once.Do(func() {
				if err := os.RemoveAll(lost); err != nil {
					t.Error(err)
				}
			})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := Backup(ctx, o)
	if err != nil || s.Outcome != "done" || s.SlotsLeft != 0 {
		t.Fatalf("outcome %q, %v, %d slots left, %+v", s.Outcome, err, s.SlotsLeft, s.Guests)
	}
	state, err := catalog.Fold(b.ledger(t).Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	again := uint32(0)
	for r, err := range b.ledger(t).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if f, ok := r.Fact.(events.DiskSealed); ok && f.Guest == o.Guests[1].ID {
			again = max(again, f.Reread)
		}
	}
	if again <= flow.MaxQueued/4 {
		t.Errorf("%d parcels of the second were stored again: nothing is proven", again)
	}
	for n, name := range []string{"a", "b"} {
		b.restored(t, state, o.Guests[n], images[name])
	}
}

// restored compares what is restored of a guest's newest point with what is wanted.
func (b *bed) restored(t *testing.T, s *catalog.State, g hypervisor.Guest, want []byte) {
	t.Helper()
	points := s.Guests[g.ID].Points
	out := filepath.Join(t.TempDir(), "restored.raw")
	if err := restore.Raw(t.Context(), b.vault, points[len(points)-1].Disks[0], out, restore.RawOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: the restored disk differs", g.Name)
	}
}
