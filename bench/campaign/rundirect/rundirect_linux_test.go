package rundirect

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/guest"
)

func TestRunDirect(t *testing.T) {
	if testing.Short() {
		t.Skip("boots guests")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: t.TempDir(), Program: program, Seed: 7, Now: time.Now, Log: t.Logf})
	if errors.Is(err, guest.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{10, 28} {
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(7, uint64(n))))
		t.Logf("trial %d %v: %s", n, out.Kinds, out.Note)
		if err != nil {
			t.Errorf("trial %d: %v", n, err)
		}
	}
}
