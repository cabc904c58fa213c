package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// What died long ago goes, what is younger stays.
func TestSweep(t *testing.T) {
	root, state := filepath.Join(t.TempDir(), "vault"), t.TempDir()
	st, err := dir.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	make := func(age time.Duration, path string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gone := []string{make(48*time.Hour, filepath.Join(root, "tmp", "old")), make(30*24*time.Hour, filepath.Join(state, "jobs", "a", "log", "conductor.log"))}
	kept := []string{make(time.Hour, filepath.Join(root, "tmp", "new")), make(24*time.Hour, filepath.Join(state, "jobs", "b", "log", "conductor.log"))}
	var out bytes.Buffer
	a := newApp(nil, &out, &out)
	a.Settings.State = state
	a.sweep(t.Context(), &session.Vault{Vault: &vault.Vault{Store: st}})
	for _, path := range gone {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range kept {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
