package crash

import (
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/vault/store/crashfs"
)

func recorded(t *testing.T) *bench {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("the campaign records the program with strace, which is not installed")
	}
	if out, err := exec.Command("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %v: %s", err, out)
	}
	folder := t.TempDir()
	program, err := rig.Build(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: folder, Program: program, Seed: 1, Now: time.Now, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPowerCuts(t *testing.T) {
	b := recorded(t)
	b.try = func(n int) bool { return n != 1 && n != 3 }
	for n := range scenarios {
		began := time.Now()
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(1, uint64(n))))
		if err != nil {
			t.Errorf("trial %d: %v", n, err)
		}
		t.Log(out.Kinds, out.Note, time.Since(began))
	}
	t.Run("planted", func(t *testing.T) { planted(t, b) })
}

// planted leaves syncs out of the recordings: as if the program had forgotten them.
func planted(t *testing.T, b *bench) {
	for _, c := range []struct {
		what     string
		scenario int
		drop     func(s *scenario, e crashfs.Effect) bool
	}{
		{"no fsync of any file", 1, func(_ *scenario, e crashfs.Effect) bool { return e.Op == crashfs.OpSync }},
		{"no fsync of the ledger's folder", 1, below("ledger")},
		{"no fsync of the folder of packs", 1, below("packs/")},
		{"no fsync of the parent of the job's packs", 1, below("packs")},
		{"no fsync of the folder of remembered checkpoints", 1, below("../state/checkpoints")},
		{"no fsync of the vault's folder", 0, below("")},
		{"no fsync of the folder that is restored to", 4, below("../out")},
	} {
		s := *b.runs[c.scenario]
		s.judged, s.sample = map[[32]byte]error{}, 0
		_, _, err := s.cut(t.Context(), crashfs.Seeds(2), nil, func(e crashfs.Effect) bool { return c.drop(&s, e) })
		if err == nil {
			t.Errorf("%s: not found", c.what)
		} else {
			t.Logf("%s: %.200s", c.what, err)
		}
	}
}

// below drops the syncs of a folder of the vault; with a '/' at its end, of those in it.
func below(name string) func(*scenario, crashfs.Effect) bool {
	return func(s *scenario, e crashfs.Effect) bool {
		folder := filepath.Join(s.place.Vault, name)
		if e.Op != crashfs.OpSyncDir {
			return false
		}
		if strings.HasSuffix(name, "/") {
			return strings.HasPrefix(e.Path, folder+"/")
		}
		return e.Path == folder
	}
}
