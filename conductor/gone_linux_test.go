package conductor

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/restore"
)

// A pack that is retired, withdrawn from or lost after the job has planned with it
// costs that what it had is read and stored once more, in the same job: the
// point is made, is whole without the pack, and its sums add up.
func TestPackThatGoesWhileTheJobRuns(t *testing.T) {
	for _, how := range []string{"retired", "withdrawn", "gone"} {
		for _, scan := range []string{"auto", "full"} {
			t.Run(how+" "+scan, func(t *testing.T) {
				b := newBed(t, 24<<20)
				b.backup(t, nil)
				packs := len(b.objects(t, "packs"))
				scatter(t, b.image, rand.New(rand.NewPCG(3, 3)))
				var once sync.Once
				s, p := b.backup(t, func(o *Options) {
					o.Scan = scan
					o.Started = func(stage string, _ uint32, _ int) {
						if stage == flow.Snapshot { // the last: all is planned
							once.Do(func() { b.spoilAPack(t, how) })
						}
					}
				})
				f := s.Finished
				if f.NewBytes == 0 || f.ZeroBytes+f.UnchangedBytes+f.KnownBytes+f.NewBytes != f.DiskBytes || min(f.ZeroBytes, f.UnchangedBytes, f.KnownBytes) < 0 {
					t.Errorf("%+v does not add up", f)
				}
				if _, err := restore.Verify(t.Context(), b.vault, p.PointCommitted, restore.Options{ReadPercent: 100}); err != nil {
					t.Errorf("verify: %v", err)
				}
				b.nothingNew(t, packs)
			})
		}
	}
}

// nothingNew has the next backup store nothing of a disk that has not changed. Where the
// first backup, on a slow machine, had made several packs, the one after a loss may store
// once more what the other packs have of it in small changes: a job that distrusts a pack,
// which the layers go on naming, compares no blocks. The next finds whole cells.
func (b *bed) nothingNew(t *testing.T, packs int) {
	t.Helper()
	s, p := b.backup(t, nil)
	if packs > 1 {
		s, p = b.backup(t, nil)
	}
	if s.Finished.NewBytes != 0 {
		t.Errorf("%d bytes were stored once more: scan %q (%+v)", s.Finished.NewBytes, p.ScanReason, s.Finished)
	}
}
