package session

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// readOnly is a store on a mount that nobody may write to, until it is let.
type readOnly struct {
	store.Store
	let bool
}

func (r *readOnly) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if !r.let {
		return store.ErrReadOnly
	}
	return r.Store.PutNew(ctx, name, size, body)
}

// What a command did to a vault that it could only read is not forgotten: the
// next command that can write puts it into the ledger, once.
func TestFactsWaitForAVaultThatCanBeWritten(t *testing.T) {
	ctx := t.Context()
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	under := &readOnly{st, true}
	v, _, err := vault.Create(ctx, under, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ctx, v, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	a := New(nil, io.Discard, &said)
	a.Settings.State = t.TempDir()
	o := &Vault{Vault: v, Ledger: l, memory: Memory{a.Settings.State}}

	under.let = false
	where, err := a.Record(ctx, o, events.PointRestored{Point: id.Point{1}, To: "/a"})
	if err != nil || where != (Recorded{}) || !strings.Contains(said.String(), "until the vault can be written to") {
		t.Fatalf("got %v, %v, said %q", where, err, said.String())
	}
	under.let = true
	if where, err = a.Record(ctx, o, events.PointRestored{Point: id.Point{2}, To: "/b"}); err != nil || where.Checkpoint != 1 {
		t.Fatalf("got %v, %v", where, err)
	}
	if _, err := a.Record(ctx, o, events.PointRestored{Point: id.Point{3}, To: "/c"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	hashes := 0
	for r, err := range l.Records(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		switch f := r.Fact.(type) {
		case events.PointRestored:
			got = append(got, f.To)
		case events.StateHashed:
			hashes++
		default:
			t.Errorf("the ledger holds a %s", r.Kind)
		}
	}
	if strings.Join(got, " ") != "/a /b /c" || hashes != 2 {
		t.Errorf("the ledger holds %v and %d hashes of its state", got, hashes)
	}
}
