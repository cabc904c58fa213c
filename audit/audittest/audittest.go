// Package audittest holds vaults as releases of this program wrote them, for tests that
// make sure that every later one reads them alike.
//
// [Vault] and [Second] unpack one into a folder of the test and open it. A vault is never
// made anew: a release that writes something else adds one of its own beside those that
// are here.
//
// The script of vault-1: init; backup of a guest of two disks, and again, with a second
// guest, after a change; verify --read-data; restore; backup of one disk of two; pin;
// backup; forget --keep-last 1; prune twice with a margin of nothing; backup.
//
// That of vault-2: set add; backup of the set (a folder of two disks, an image), of own.raw
// with --domain guest, of two images at once, of tmp.raw, of gone.raw with --domain guest;
// key add, key rotate, backups, key remove; a backup, after which the vault is set back
// to before it, and gone on with by --accept-rollback; a flipped bit in the pack of tmp.raw,
// verify --read-data, backup of tmp.raw, verify --read-data; pin; forget --set, forget
// --keep-last 1, forget of all points of tmp.raw and of one of the two images; prune
// --sparse 95 --full with a margin of nothing; forget --shred gone.raw; backups.
package audittest

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Password opens all of them.
const Password = "correct horse"

//go:embed vault-1.zip
var first []byte

//go:embed vault-2.zip
var second []byte

// Opened is a vault in a folder of its own.
type Opened struct {
	*vault.Vault
	Root   string
	Ledger *ledger.Ledger
}

// Now is the time of everything that a test appends.
func Now() time.Time { return time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC) }

// Vault unpacks the vault of the first release that had audit verify.
func Vault(t testing.TB) Opened {
	t.Helper()
	return unpack(t, first)
}

// Second unpacks a vault with sets, rotated keys, a rollback, healed damage, moved packs,
// and guests with keys of their own, of which one is shredded.
func Second(t testing.TB) Opened {
	t.Helper()
	return unpack(t, second)
}

func unpack(t testing.TB, zipped []byte) Opened {
	t.Helper()
	root := filepath.Join(t.TempDir(), "vault")
	z, err := zip.NewReader(bytes.NewReader(zipped), int64(len(zipped)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		path := filepath.Join(root, filepath.FromSlash(f.Name))
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Open(t, root)
}

// Open opens a vault in a folder, with nothing remembered and nothing cached.
func Open(t testing.TB, root string) Opened {
	t.Helper()
	st, err := dir.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), st, []byte(Password))
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), v, ledger.Options{Now: Now})
	if err != nil {
		t.Fatal(err)
	}
	return Opened{v, root, l}
}

// Copy is another folder with the same vault.
func (o Opened) Copy(t testing.TB) Opened {
	t.Helper()
	root := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(root, os.DirFS(o.Root)); err != nil {
		t.Fatal(err)
	}
	return Open(t, root)
}
