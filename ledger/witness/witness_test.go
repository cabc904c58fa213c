package witness

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// history makes a vault and signs its ledger so many times.
func history(t *testing.T, signed int) (vault.Config, []ledger.Checkpoint) {
	t.Helper()
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", MemoryKiB: 8 << 10, Time: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), v, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var out []ledger.Checkpoint
	for range signed {
		if _, err := l.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		c, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return v.Config, out
}

func TestNeverReplacedByAnOlderOne(t *testing.T) {
	cfg, all := history(t, 3)
	other, foreign := history(t, 9)
	folder := t.TempDir()
	for _, p := range []Place{Place(folder), Place(filepath.Join(folder, "new") + "/"), Place(filepath.Join(folder, "one.checkpoint"))} {
		if c, err := p.Read(cfg); c != nil || err != nil {
			t.Fatalf("%s: nothing was witnessed: %v, %v", p, c, err)
		}
		for _, n := range []int{0, 2, 1, 0} {
			if err := p.Write(cfg, all[n]); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := p.Read(cfg); err != nil || c.Size != all[2].Size || c.Root != all[2].Root {
			t.Errorf("%s: %+v, %v", p, c, err)
		}
		if err := p.Replace(all[1]); err != nil {
			t.Fatal(err)
		}
		if c, err := p.Read(cfg); err != nil || c.Size != all[1].Size {
			t.Errorf("%s: replaced: %+v, %v", p, c, err)
		}
	}
	// A folder holds one file for each vault, a file is one vault's.
	if err := Place(folder).Write(other, foreign[8]); err != nil {
		t.Error(err)
	}
	one := Place(filepath.Join(folder, "one.checkpoint"))
	if err := one.Write(other, foreign[8]); !errors.Is(err, ErrForeign) {
		t.Errorf("another vault's checkpoint was replaced: %v", err)
	}
	// What is no checkpoint is not "nothing seen".
	for _, text := range []string{"", "hello", string(all[2].Note[:len(all[2].Note)-9]) + "AAAAAAAA\n"} {
		if err := os.WriteFile(string(one), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := one.Read(cfg); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%.10q: %v, %v", text, c, err)
		}
		if err := one.Write(cfg, all[2]); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%.10q was replaced: %v", text, err)
		}
	}
}
