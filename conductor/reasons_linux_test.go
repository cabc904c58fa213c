package conductor

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog/sidecar"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/id"
)

// A point says why more was stored than had changed: the host has no block hashes
// of its parent, or the disk has grown. Where there was no such reason it says none.
func TestPointSaysWhatCouldNotBeCompared(t *testing.T) {
	b := newBed(t, 24<<20)
	b.backup(t, nil)
	scatter(t, b.image, rand.New(rand.NewPCG(4, 4)))
	if _, p := b.backup(t, nil); strings.Contains(p.ScanReason, "stored again") {
		t.Errorf("nothing is lost, the reason is %q", p.ScanReason)
	}
	if err := os.RemoveAll(filepath.Join(b.state, "cache", b.vault.ID.String(), sidecar.Folder)); err != nil {
		t.Fatal(err)
	}
	s, p := b.backup(t, nil)
	if s.Finished.NewBytes == 0 || !strings.Contains(p.ScanReason, "guest.raw has no block hashes of it on this host") {
		t.Errorf("%d bytes are new, the reason is %q", s.Finished.NewBytes, p.ScanReason)
	}
	if s, p := b.backup(t, nil); s.Finished.NewBytes != 0 || strings.Contains(p.ScanReason, "stored again") {
		t.Errorf("afterwards %d bytes are new, the reason is %q", s.Finished.NewBytes, p.ScanReason)
	}
	if err := os.Truncate(b.image, 28<<20); err != nil {
		t.Fatal(err)
	}
	if _, p := b.backup(t, nil); !strings.Contains(p.ScanReason, "guest.raw had another size then") {
		t.Errorf("the disk has grown, the reason is %q", p.ScanReason)
	}
}

// Two guests whose disks have one id, as copies of a machine do, are two disks in
// the sums of the job.
func TestGuestsWithDisksOfOneID(t *testing.T) {
	b := newBed(t, 12<<20)
	other := filepath.Join(t.TempDir(), "other.raw")
	writeImage(t, other, 8<<20)
	o := b.options(t)
	more, err := folder.New(other, folder.Options{GuestID: id.Guest{7}, Vault: b.vault.ID}).Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	more[0].Disks[0].ID = o.Guests[0].Disks[0].ID
	o.Guests = append(o.Guests, more...)
	s, err := Backup(t.Context(), o)
	if err != nil || s.Outcome != "done" {
		t.Fatalf("outcome %q, %v", s.Outcome, err)
	}
	if f := s.Finished; f.DiskBytes != 20<<20 || f.ZeroBytes+f.UnchangedBytes+f.KnownBytes+f.NewBytes != f.DiskBytes {
		t.Errorf("%+v is not the sum of two disks of 12 and 8 MiB", f)
	}
}
