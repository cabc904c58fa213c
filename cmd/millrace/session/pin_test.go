package session

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// A long reader is in the ledger while it reads, a short one is not, and one that
// cannot write reads all the same.
func TestLongReadersArePinned(t *testing.T) {
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	under := &readOnly{st, true}
	v, _, err := vault.Create(t.Context(), under, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), v, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	a := New(nil, io.Discard, &said)
	a.Settings.State = t.TempDir()
	o := &Vault{Vault: v, Ledger: l, memory: Memory{a.Settings.State}}
	pins := func() int {
		s, err := o.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Pins)
	}
	hold := func(size int64) func() {
		release, err := a.Hold(t.Context(), o, "restore", []id.Point{{1}}, size)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	release := hold(LongRead - 1)
	if pins() != 0 {
		t.Error("a short reader is pinned")
	}
	release()
	release = hold(LongRead)
	if pins() != 1 {
		t.Error("a long reader is not pinned")
	}
	release()
	if pins() != 0 {
		t.Error("the pin stays")
	}
	under.let = false
	hold(LongRead)()
	if pins() != 0 || !strings.Contains(said.String(), "a week") {
		t.Errorf("said %q", said.String())
	}
}
