package restore_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/audit/audittest"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/restore"
)

// memoryDisk is a disk that is restored into memory.
type memoryDisk []byte

func (d memoryDisk) WriteAt(p []byte, at int64) (int, error) { return copy(d[at:], p), nil }

// Every point of a vault of an earlier release restores to the bytes that it restored to
// then: of rotated keys, of keys of its own, from packs that were moved, and healed.
func TestGoldenVaultRestoresEqual(t *testing.T) {
	text, err := os.ReadFile(filepath.FromSlash("../audit/audittest/vault-2.sums"))
	if err != nil {
		t.Fatal(err)
	}
	v := audittest.Second(t)
	s, err := catalog.Fold(v.Ledger.Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, p := range s.Listed() {
		for _, d := range p.Disks {
			disk := make(memoryDisk, d.Size)
			if err := restore.Disk(t.Context(), v.Vault, d, disk, restore.Options{}); err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(disk)
			got[p.Point.String()+" "+d.Key+" "+hex.EncodeToString(sum[:])] = true
		}
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range want {
		if !got[line] {
			t.Errorf("nothing restores to %s", line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d disks are listed, there were %d", len(got), len(want))
	}
}
