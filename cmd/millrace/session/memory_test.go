package session

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Who opens a vault and who rescues what is left of one go by the same signs that it was
// set back, and neither takes a memory that cannot be read for none.
func TestSignsOfARollback(t *testing.T) {
	ctx := t.Context()
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := vault.Create(ctx, st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	a := New(nil, io.Discard, io.Discard)
	a.Settings.State = t.TempDir()
	m := Memory{a.Settings.State}
	l, err := ledger.Open(ctx, v, ledger.Options{Cache: m.Cache(v.ID, "ledger"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Newer(ctx, v); err != nil {
		t.Errorf("nothing is remembered: %v", err)
	}
	// Another command appends, and keeps a copy, between this one's look at the
	// copies and at the vault: that is no rollback.
	_, copies, err := m.seen(v.Config)
	for range 2 {
		if _, err := l.Append(ctx, id.NewJob(), []events.Fact{events.SnapshotReleased{}}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range l.Records(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
	}
	next, _, _ := l.Head()
	if err != nil || m.shorter(v.ID, next, copies) != nil {
		t.Errorf("%d segments, %d copies, %v", next, copies, err)
	}
	if err := a.Newer(ctx, v); err != nil {
		t.Errorf("as many copies as segments: %v", err)
	}
	cached := filepath.Join(m.Cache(v.ID, "ledger"), "00000000000000000007")
	if err := errors.Join(os.MkdirAll(filepath.Dir(cached), 0o700), os.WriteFile(cached, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := a.Newer(ctx, v); !errors.Is(err, ledger.ErrRollback) {
		t.Errorf("a copy of a segment that is not there: %v", err)
	}
	if _, copies, err := m.seen(v.Config); err != nil || !errors.Is(m.shorter(v.ID, next, copies), ledger.ErrRollback) {
		t.Errorf("%d copies of %d segments, %v", copies, next, err)
	}
	for _, file := range []string{filepath.Dir(cached), m.checkpointFile(v.ID)} {
		unreadable := []byte("neither a folder nor a checkpoint")
		if err := errors.Join(os.RemoveAll(file), os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, unreadable, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := a.Newer(ctx, v); err == nil || !strings.Contains(err.Error(), "not known") {
			t.Errorf("%s cannot be read: %v", file, err)
		}
		if _, _, err := m.seen(v.Config); err == nil {
			t.Errorf("%s counts as nothing remembered", file)
		}
	}
}

// What is remembered is never set back, by a command that began earlier and ends later.
func TestMemoryKeepsTheLater(t *testing.T) {
	ctx := t.Context()
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := vault.Create(ctx, st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ctx, v, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var signed []ledger.Checkpoint
	for range 2 {
		if _, err := l.Append(ctx, id.NewJob(), []events.Fact{events.SnapshotReleased{}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		c, err := l.Checkpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		signed = append(signed, c)
	}
	m := Memory{t.TempDir()}
	for n, c := range []ledger.Checkpoint{signed[0], signed[1], signed[0], {}} {
		if err := m.Keep(v.Config, c); err != nil {
			t.Fatal(err)
		}
		got, err := m.checkpoint(v.Config)
		want := signed[min(n, 1)]
		if err != nil || got == nil || got.Size != want.Size {
			t.Errorf("step %d: %+v, %v; want size %d", n, got, err, want.Size)
		}
	}
}
