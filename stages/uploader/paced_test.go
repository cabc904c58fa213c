package uploader

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/vault"
)

// TestPaced: every byte of a pack is counted, and the pack is what it would have been.
func TestPaced(t *testing.T) {
	y := newYard(t)
	p, err := pace.Open(filepath.Join(t.TempDir(), "pace"), 4<<20)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	w, err := vault.NewPackWriter(t.Context(), paced{y.v.Store, p}, y.v.Keys, y.job, y.v.Config.DefaultDomain)
	must(t, err)
	l, begun := newLoad(w, time.Now()), time.Now()
	for range 3 {
		parcel, slot := y.sealed(0, y.noise(250_000), y.noise(250_000), y.noise(250_000), y.noise(250_000))
		must(t, l.add(y.work, parcel, slot))
	}
	ref, err := l.close(t.Context())
	must(t, err)
	least := time.Duration(float64(ref.Size-1<<20-1<<20-256<<10) / (4 << 20) * float64(time.Second)) // burst, piece, gathered
	if took := time.Since(begun); took < least {
		t.Errorf("%d bytes in %v, must be %v", ref.Size, took, least)
	}
	info, err := vault.ReadPackFooter(t.Context(), y.v.Store, y.v.Keys, y.job, ref.Name)
	if err != nil || len(info.Entries) != 12 {
		t.Errorf("footer %+v, %v", info, err)
	}
}
