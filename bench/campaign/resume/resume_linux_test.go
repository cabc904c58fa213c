package resume

import (
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

// One trial of the campaign on a smaller disk, a quarter of it done when it is killed.
func TestResume(t *testing.T) {
	if testing.Short() {
		t.Skip("backs up 1.5 GiB")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: t.TempDir(), Program: program, Seed: 3, Now: time.Now, Log: t.Logf}, 768*mib)
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.Trial(t.Context(), 0, nil)
	t.Log(out.Note)
	if err != nil {
		t.Error(err)
	}
}
