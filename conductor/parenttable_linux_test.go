package conductor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/ledger/table"
)

// A damaged page of the parent's table is met by the next backup, though not a
// block of the disk has changed: nothing is listed that would not restore.
func TestDamagedParentTableIsMet(t *testing.T) {
	b := newBed(t, 16<<20)
	b.next(t)
	_, s := b.next(t) // now there is a sidecar, and it is used
	d := s.Listed()[0].Disks[0]
	path := filepath.Join(b.root, table.ObjectName(d.Extents[len(d.Extents)-1]))
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page[130] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := Backup(t.Context(), b.options(t))
	if err != nil || sum.Outcome != "part" || len(sum.Points()) != 0 || sum.Guests[0].Code != "damaged" {
		t.Errorf("outcome %q, %v, guests %+v", sum.Outcome, err, sum.Guests)
	}
}
