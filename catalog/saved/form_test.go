package saved

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestHeader holds the clear part to docs/format/catalog.md.
func TestHeader(t *testing.T) {
	h := header{at: ledger.Reached{Seq: 0x1122, Size: 0x3344}, root: events.Hash{5}, shape: events.Hash{6}, hash: events.Hash{7}, parts: 2, sum: events.Hash{8}}
	got := hex.EncodeToString(h.encode(id.Vault{9})) + "\n" + hex.EncodeToString(h.partName(id.Vault{9}, 1)) + "\n" + objectName(h.at) + "\n"
	path := filepath.Join("testdata", "snapshot.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("header:\n%swant:\n%s", got, want)
	}
	if headerSize != 188 || signedSize != 252 {
		t.Errorf("header of %d bytes, with signature %d", headerSize, signedSize)
	}
	if at, ok := parseName(objectName(h.at)); !ok || at != h.at {
		t.Errorf("name: %v %v", at, ok)
	}
	for _, name := range []string{"catalogs/1-2", "catalogs/", fmt.Sprintf("catalogs/%020d", 1), fmt.Sprintf("catalogs/%020d-%020d-", 1, 1), fmt.Sprintf("catalogs/%020d-+%019d", 1, 1)} {
		if _, ok := parseName(name); ok {
			t.Errorf("%q is taken for a snapshot", name)
		}
	}
}

func newVault(t testing.TB) (*vault.Vault, *ledger.Ledger) {
	t.Helper()
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), v, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return v, l
}

// A state of many parts comes back, and no byte of it can be another.
func TestManyParts(t *testing.T) {
	v, l := newVault(t)
	for n := range 40 {
		if _, err := l.Append(t.Context(), id.Job{byte(n)}, []events.Fact{
			events.JobStarted{Verb: "backup"},
			events.PointCommitted{Point: id.Point{byte(n + 1)}, Guest: id.Guest{1}, GuestName: "g", Config: bytes.Repeat([]byte{byte(n)}, 100_000)},
		}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	s, err := catalog.Fold(l.Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := save(t.Context(), v, l, s, nil); err != nil {
		t.Fatal(err)
	}
	at, err := Reached(t.Context(), v.Store)
	if err != nil || at.Seq != 40 {
		t.Fatal(at, err)
	}
	got, err := read(t.Context(), v, l, at)
	if err != nil || got.Hash() != s.Hash() || len(got.Points) != 40 || got.Points[id.Point{3}].Config[0] != 2 {
		t.Fatalf("%v", err)
	}
	// Fewer segments than Every: nothing is written and nothing is wrong.
	if err := Save(t.Context(), v, l, s); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, signedSize)
	if _, err := v.Store.Get(t.Context(), objectName(at), 0, b); err != nil {
		t.Fatal(err)
	}
	h, err := parseHeader(v.Config, b)
	if err != nil || h.parts < 3 {
		t.Fatal(h, err)
	}
}

// FuzzParts opens parts that are sealed by the vault itself and say anything.
func FuzzParts(f *testing.F) {
	v, _ := newVault(f)
	h := header{at: ledger.Reached{Seq: 1, Size: 1}, parts: 1}
	none, err := vault.NewCodec("none")
	if err != nil {
		f.Fatal(err)
	}
	var image []byte
	for e, err := range catalog.New().Image() {
		if err != nil {
			f.Fatal(err)
		}
		image = append(append(image, byte(len(e))), e...)
	}
	f.Add(image, uint32(1))
	f.Add([]byte{0x7f}, uint32(2))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, plain []byte, parts uint32) {
		sealed, err := v.Keys.SealMeta(nil, vault.TypeCatalog, h.partName(v.ID, 0), none.Encode(nil, plain))
		if err != nil {
			t.Fatal(err)
		}
		body := append([]byte{0, 0, byte(len(sealed) >> 8), byte(len(sealed))}, sealed...)
		h.parts = parts % 3
		_, _ = catalog.ReadImage(entries(v, h, body))
		_, _ = catalog.ReadImage(entries(v, h, plain))
	})
}

func FuzzHeader(f *testing.F) {
	v, _ := newVault(f)
	h := header{at: ledger.Reached{Seq: 1, Size: 1}, parts: 1}
	clear := h.encode(v.ID)
	signature, err := v.Keys.Sign(append([]byte(signedAs), clear...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(clear, signature...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseHeader(v.Config, b); err == nil && !bytes.Equal(got.encode(v.ID), b[:headerSize]) {
			t.Error("a header has two forms")
		} else if err != nil && !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, errUnfit) {
			t.Errorf("%v", err)
		}
	})
}
