package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestLive watches and tunes jobs from other processes, as operators do.
func TestLive(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs of 160 MiB")
	}
	t.Parallel()
	exe := program(t)
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk.raw", 160)

	// Two who watch, two who tune; the job does not mind.
	job := p.underWay(image)
	name := job.lines[len(job.lines)-1].Job
	first, second := p.start("top"), p.start("top", name)
	for _, r := range []*process{first, second} {
		r.until(func(l line) bool { return l.Type == "status" })
	}
	tune := func(want int, args ...string) line {
		r := p.start(append([]string{"tune"}, args...)...)
		return r.end(want)
	}
	if l := tune(0, "seal=3", "delta=2", "--why", "a test"); l.Type != "tuned" || l.Job != name {
		t.Errorf("tune says %+v", l)
	}
	tune(0, "latest", "seal=1")
	l := p.start("top", "latest", "--once").end(0)
	if l.Type != "status" || l.Job != name {
		t.Errorf("top --once says %+v", l)
	}
	job.end(0)
	for _, r := range []*process{first, second} {
		if l := r.end(0); l.Type != "summary" || l.Outcome != "done" || l.New+l.Zero != 160<<20 {
			t.Errorf("who watched saw at last %+v", l)
		}
	}
	p.fault(tune(1, "seal=2"), "not-running", "find job", "that runs", "no job runs", "audit show")
	var account struct {
		Facts []struct{ Type, Why, Stage string }
	}
	p.show("audit", &account, "show", name)
	var scaled []string
	for _, f := range account.Facts {
		if f.Type == "StageScaled" {
			scaled = append(scaled, f.Stage+" "+f.Why)
		}
	}
	if got := strings.Join(scaled, ", "); got != "delta a test, seal a test, seal asked for by millrace tune" {
		t.Errorf("the ledger says: %s", got)
	}

	// A job that is killed has not ended well for those who watch.
	job = p.underWay(p.image("other.raw", 160))
	name = job.lines[len(job.lines)-1].Job
	watch := p.start("top")
	watch.until(func(l line) bool { return l.Type == "status" })
	must(t, job.cmd.Process.Kill())
	p.fault(watch.end(1), "vanished", "watch job", name, "without a word", "run the backup again")
	job.end(-1)
	job.allGone()
	p.fault(p.start("top", "--once").end(1), "not-running", "find job", "that runs", "no job runs", "audit show")
}
