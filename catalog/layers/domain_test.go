package layers

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// A table says of one domain that all of its chunks are in it: a piece of another,
// as a parent may have it, is refused, and not written down as of the wrong one.
func TestChunksOfAnotherDomain(t *testing.T) {
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, domain := range []id.Domain{v.Config.DefaultDomain, {9}} {
		d := Disk{Size: 1 << 20, Found: func(context.Context) iter.Seq2[table.MapPiece, error] {
			return func(yield func(table.MapPiece, error) bool) {
				yield(table.MapPiece{Length: 4096, Chunk: id.Chunk{1}, Domain: domain, Stored: 100, Raw: 4096}, nil)
			}
		}}
		_, err := Write(t.Context(), v, id.NewJob(), v.Config.DefaultDomain, newScratch(t), []Disk{d})
		if refused := errors.Is(err, table.ErrRow); refused != (domain == id.Domain{9}) || err != nil && !refused {
			t.Errorf("domain %s: %v", domain, err)
		}
	}
}
