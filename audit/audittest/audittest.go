// Package audittest holds vaults as releases of this program wrote them, for tests that
// make sure that every later one reads them alike.
//
// [Vault] unpacks one into a folder of the test and opens it. A vault is never made anew:
// a release that writes something else adds one of its own beside those that are here.
// The script of vault-1: init; backup of a guest of two disks, and again, with a second
// guest, after a change; verify --read-data; restore; backup of one disk of two; pin;
// backup; forget --keep-last 1; prune twice with a margin of nothing; backup.
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
	root := filepath.Join(t.TempDir(), "vault")
	z, err := zip.NewReader(bytes.NewReader(first), int64(len(first)))
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
