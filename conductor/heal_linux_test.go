package conductor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// found does what the verb verify does: looks at a point, again at what is damaged,
// and writes it down.
func (b *bed) found(t *testing.T, p *catalog.Point) (report restore.Report) {
	t.Helper()
	report, err := restore.Verify(t.Context(), b.vault, p.PointCommitted, restore.Options{ReadPercent: 100})
	if !errors.Is(err, vault.ErrDamaged) {
		t.Fatalf("verify: %v", err)
	}
	s := b.options(t).Catalog
	seen := heal.NewSight()
	if err := heal.NewEye(b.vault, 0, 0).Again(t.Context(), s, report.Damages, seen); err != nil {
		t.Fatal(err)
	}
	facts := []events.Fact{events.PointVerified{Point: p.Point, Mode: "chunks", Percent: 100, DamagedCount: uint64(report.DamageCount)}}
	facts = append(facts, seen.Withdraw(s)...)
	if _, err := b.ledger(t).Append(t.Context(), id.NewJob(), facts, nil, nil); err != nil {
		t.Fatal(err)
	}
	return report
}

// rot flips a bit in the middle of a chunk of a pack and returns the chunk.
func (b *bed) rot(t *testing.T, path string) vault.PackEntry {
	t.Helper()
	var job id.Job
	var pack id.Object
	err := errors.Join(job.UnmarshalText([]byte(filepath.Base(filepath.Dir(path)))), pack.UnmarshalText([]byte(filepath.Base(path))))
	if err != nil {
		t.Fatal(err)
	}
	info, err := vault.ReadPackFooter(t.Context(), b.vault.Store, b.vault.Keys, job, pack)
	if err != nil {
		t.Fatal(err)
	}
	e := info.Entries[len(info.Entries)/2]
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[int(e.Offset)+int(e.Stored)/2] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, raw, 0o400)); err != nil {
		t.Fatal(err)
	}
	return e
}

// A chunk that has gone bad is found and withdrawn. The next job stores that chunk and
// no other again, whatever it compares with, and after it the points from before
// it read right; the job after that finds nothing to do.
func TestDamagedChunkIsHealed(t *testing.T) {
	for _, scan := range []string{"auto", "full"} {
		t.Run(scan, func(t *testing.T) {
			b := newBed(t, 24<<20)
			_, old := b.backup(t, nil)
			b.backup(t, nil)
			bad := b.rot(t, b.objects(t, "packs")[0])
			report := b.found(t, old)
			if report.DamageCount != 1 || report.Damages[0].Chunk != bad.Chunk {
				t.Fatalf("found %+v, and not chunk %s", report.Damages, bad.Chunk)
			}
			s, p := b.backup(t, func(o *Options) { o.Scan = scan })
			if s.Finished.NewBytes != int64(bad.Raw) {
				t.Errorf("%d bytes were stored again, the chunk has %d (%q)", s.Finished.NewBytes, bad.Raw, p.ScanReason)
			}
			if scan == "auto" && !strings.Contains(p.ScanReason, "1 of its chunks are damaged") {
				t.Errorf("scan reason %q", p.ScanReason)
			}
			for _, each := range b.options(t).Catalog.Listed() {
				if _, err := restore.Verify(t.Context(), b.vault, each.PointCommitted, restore.Options{ReadPercent: 100}); err != nil {
					t.Errorf("point at %d: %v", each.Position, err)
				}
			}
			s, p = b.backup(t, nil)
			if s.Finished.NewBytes != 0 || strings.Contains(p.ScanReason, "damaged") {
				t.Errorf("%d bytes a third time, %q", s.Finished.NewBytes, p.ScanReason)
			}
		})
	}
}

// A pack that is lost is withdrawn as a whole, and what it had is healed.
func TestLostPackIsHealed(t *testing.T) {
	b := newBed(t, 24<<20)
	_, old := b.backup(t, nil)
	b.spoilAPack(t, "gone")
	b.found(t, old)
	if s := b.options(t).Catalog; len(s.Withdrawn) != 1 {
		t.Errorf("%d places were withdrawn for one pack", len(s.Withdrawn))
	}
	b.backup(t, nil)
	if _, err := restore.Verify(t.Context(), b.vault, b.options(t).Catalog.Points[old.Point].PointCommitted, restore.Options{ReadPercent: 100}); err != nil {
		t.Error(err)
	}
}
