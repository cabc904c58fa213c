package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-backup/millrace/bench/workload"
)

// TestJobs runs several jobs on one vault, as hosts would that know nothing of
// each other: some share a state folder, some have their own.
func TestJobs(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs that wait for each other: a minute")
	}
	t.Parallel()
	exe := program(t)
	for _, one := range []struct {
		name string
		test func(*testing.T, string)
	}{
		{"one guest twice", oneGuestTwice},
		{"dead job elsewhere", deadJobElsewhere},
		{"paused job wakes", pausedJobWakes},
		{"dead job holds points", deadJobHoldsPoints},
		{"twins", twins},
		{"many jobs", manyJobs},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel() // most of them wait, most of the time
			one.test(t, exe)
		})
	}
}

// elsewhere is the same vault as another host sees it.
func (p *place) elsewhere() *place {
	q := *p
	q.state = p.T.TempDir()
	return &q
}

// stop stops the workers of a job and, unless alive, its conductor.
func (r *process) stop(alive bool) {
	r.p.Helper()
	must(r.p.T, unix.Kill(-r.cmd.Process.Pid, unix.SIGSTOP))
	if alive {
		must(r.p.T, unix.Kill(r.cmd.Process.Pid, unix.SIGCONT))
	}
}

func (r *process) goOn() {
	r.p.Helper()
	must(r.p.T, unix.Kill(-r.cmd.Process.Pid, unix.SIGCONT))
}

// A guest that a live job has is left to it. What the second job has besides is
// backed up.
func oneGuestTwice(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image, other := p.image("disk.raw", 160), p.image("other.raw", 8)
	first := p.underWay(image)
	first.stop(true) // it lives, and does not get on
	for _, q := range []*place{p, p.elsewhere()} {
		r := q.start("backup", image)
		q.fault(r.end(11), "guest-busy", "back up", "job "+r.job(), "other jobs", "wait for the other job")
		if s := r.lines[len(r.lines)-1]; s.Outcome != "busy" {
			p.Errorf("exit 11 and the summary %v", s)
		}
		busy := r.lines[len(r.lines)-3]
		q.fault(busy, "guest-busy", "claim guest", "disk.raw", fmt.Sprintf("(process %d)", first.cmd.Process.Pid), "wait for that job")
	}
	r := p.elsewhere().start("backup", image, other)
	p.fault(r.end(3), "part-failed", "back up", "job "+r.job(), "1 of 2 guests", "errors above")
	p.points(1)
	first.goOn()
	first.end(0)
	p.points(2)
	p.wellAgain(image, 2) // the claim has gone with the job
	p.noHeartbeats()
}

// noHeartbeats wants all that ended to have taken its heartbeats away.
func (p *place) noHeartbeats() {
	p.Helper()
	left, err := filepath.Glob(filepath.Join(p.vault, "leases", "*", "*"))
	if err != nil || len(left) > 0 {
		p.Errorf("heartbeats are left behind: %v %v", left, err)
	}
}

// A killed job's guest is taken over: at once where that it died can be seen, and
// within a minute elsewhere. What it had stored is not stored again.
func deadJobElsewhere(t *testing.T, exe string) {
	for _, here := range []bool{true, false} {
		p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
		image := p.image("disk.raw", 128)
		r := p.underWay(image)
		must(t, r.cmd.Process.Kill())
		r.end(-1)
		r.allGone()
		q, least, most := p, time.Duration(0), 15*time.Second
		if !here {
			q, least, most = p.elsewhere(), 25*time.Second, 60*time.Second
		}
		began := time.Now()
		next := q.start("backup", image)
		next.until(func(l line) bool { return l.Type == "fact" && l.Kind == "SnapshotTaken" })
		took := time.Since(began)
		s := next.end(0)
		t.Logf("same state folder %v: frozen anew after %.1f s, %d of %d bytes were known", here, took.Seconds(), s.Known, s.Disk)
		if took < least || took > most {
			t.Errorf("same state folder %v: taken over after %v, want %v to %v", here, took, least, most)
		}
		p.points(1)
		p.run(0, "restore", "latest", "--to", p.path("out.raw"), "--force")
		same(t, image, p.path("out.raw"))
		p.noHeartbeats()
	}
}

// A killed job may have built upon a point that is forgotten after it began. prune
// fences it and gives the point's space back at once, whether or not its host is this.
func deadJobHoldsPoints(t *testing.T, exe string) {
	for _, here := range []bool{true, false} {
		p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
		image := p.image("disk.raw", 160)
		point := p.run(0, "backup", image).Points[0]
		must(t, workload.Random(image, 160<<20, 9))
		// Killed as soon as it has its guest: on a fast machine it has a point soon after.
		r := p.start("backup", image, "--codec", "zstd", "--parallel", "seal=1")
		r.until(func(l line) bool { return l.Type == "fact" && l.Kind == "GuestInspected" })
		must(t, r.cmd.Process.Kill())
		r.end(-1)
		r.allGone()
		if out, err := p.command("forget", point, "--force").CombinedOutput(); err != nil {
			t.Fatalf("forget: %v\n%s", err, out)
		}
		q := p
		if !here {
			q = p.elsewhere()
		}
		var did struct {
			Held    int   `json:"held_points"`
			Retired int   `json:"retired_packs"`
			Deleted int64 `json:"deleted_bytes"`
		}
		p.show("prune", &did, "--dry-run")
		if did.Held != 1 || did.Retired != 0 {
			t.Errorf("before: %+v", did)
		}
		q.show("prune", &did, "--margin", "0s")
		if did.Held != 0 || did.Retired == 0 || did.Deleted < 100<<20 {
			t.Errorf("same state folder %v: %+v", here, did)
		}
		p.noHeartbeats()
	}
}

// A job that was stopped with all its workers, and taken for dead, wakes up when
// another has its guest: it commits nothing, says why, and does no harm.
func pausedJobWakes(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk.raw", 128)
	sleeper := p.start("backup", image, "--codec", "zstd", "--parallel", "seal=1")
	sleeper.until(func(l line) bool { return l.Type == "fact" && l.Kind == "GuestInspected" })
	sleeper.stop(false)
	p.points(0)
	began := time.Now()
	s := p.run(0, "backup", image) // the same state folder: the job's mark says that it lives, its heart is still
	if took := time.Since(began); took > 60*time.Second || len(s.Points) != 1 {
		t.Errorf("taken over after %v with points %v", took, s.Points)
	}
	sleeper.goOn()
	p.fault(sleeper.end(1), "fenced", "append to the ledger", p.vault, "no heartbeat after number", "another job")
	p.points(1)
	p.verify()
	p.run(0, "restore", "latest", "--to", p.path("out.raw"))
	same(t, image, p.path("out.raw"))
	var account struct {
		Outcome  string
		FencedBy []string `json:"fenced_by"`
	}
	p.show("audit", &account, "show", sleeper.summaryJob())
	if account.Outcome != "failed" || len(account.FencedBy) != 1 {
		t.Errorf("audit show says %+v", account)
	}
	p.wellAgain(image, 1)
	p.noHeartbeats()
}

// summaryJob is the job that the process said it was, in its last line.
func (r *process) summaryJob() string {
	r.p.Helper()
	l := r.lines[len(r.lines)-1]
	if l.Type != "summary" || l.Job == "" {
		r.p.Fatalf("the last line is no summary: %+v", l)
	}
	return l.Job
}

// command is the program with the place's settings, for output that is not lines.
func (p *place) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(p.Context(), p.exe, append(args, "--json")...)
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+p.vault, "MILLRACE_STATE="+p.state, "MILLRACE_PASSWORD_FILE="+p.path("password"))
	return c
}

// verify wants every byte of every point to be as it was stored.
func (p *place) verify() {
	p.Helper()
	if out, err := p.command("verify", "--read-data").CombinedOutput(); err != nil {
		p.Fatalf("verify: %v\n%s", err, out)
	}
}

// show decodes what a command that reads prints.
func (p *place) show(verb string, into any, args ...string) {
	p.Helper()
	text, err := p.command(append([]string{verb}, args...)...).Output()
	if err != nil {
		p.Fatalf("%s %v: %v\n%s", verb, args, err, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		p.Fatalf("%s %v: %v", verb, args, err)
	}
}

// Two guests with the same bytes, backed up at the same time from two hosts: what
// one job has stored while the other runs, the other finds.
func twins(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image, twin := p.image("disk.raw", 192), p.path("twin.raw")
	must(t, os.Link(image, twin)) // another name is another guest
	late := p.elsewhere()
	second := late.start("backup", twin, "--parallel", "seal=1", "--codec", "zstd")
	second.until(func(l line) bool { return l.Type == "fact" && l.Kind == "GuestInspected" })
	second.stop(true)
	first := p.run(0, "backup", image)
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if found, _ := filepath.Glob(filepath.Join(late.state, "jobs", "*", "others", "*.idx")); len(found) > 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the second job did not take notice of the first")
		}
	}
	second.goOn()
	s := second.end(0)
	t.Logf("two times %d MiB: %d MiB stored by the first, %d by the second, which had begun before", first.Disk>>20, first.New>>20, s.New>>20)
	if s.Known == 0 || s.New > s.Disk/2 {
		t.Errorf("known %d, new %d of %d", s.Known, s.New, s.Disk)
	}
	p.points(2)
	p.verify()
	p.run(0, "restore", "twin.raw@latest", "--to", p.path("out.raw"))
	same(t, twin, p.path("out.raw"))
}

// contention is how often a conductor found its place in the ledger taken.
func (p *place) contention(running []*process) {
	p.Helper()
	lost := map[string]int{}
	for _, r := range running {
		var state string
		for _, e := range r.cmd.Env {
			if v, ok := strings.CutPrefix(e, "MILLRACE_STATE="); ok {
				state = v
			}
		}
		text, err := os.ReadFile(filepath.Join(state, "jobs", r.summaryJob(), "log", "conductor.log"))
		if err != nil {
			p.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`"lost": ?(\d+)`).FindAllStringSubmatch(string(text), -1) {
			n, _ := strconv.Atoi(found[1])
			lost[r.summaryJob()[20:]] += n
			if n > 40 { // a handful of appends, each of which may lose against each other job
				p.Errorf("a conductor lost %d times against other writers", n)
			}
		}
	}
	if len(lost) != len(running) {
		p.Errorf("%d of %d jobs say how often they lost", len(lost), len(running))
	}
	p.Logf("lost races by job: %v", lost)
}

// Many jobs at once, two of them with one state folder, and somebody who reads
// all the while.
func manyJobs(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	const jobs, mib = 7, 24
	var images []string
	for n := range jobs { // the first half of each is the same
		path := p.image(fmt.Sprintf("guest%d.raw", n), mib)
		must(t, workload.Random(p.path("common"), mib/2<<20, 1))
		common, err := os.ReadFile(p.path("common"))
		must(t, err)
		f := openImage(t, path)
		_, err = f.WriteAt(common, 0)
		must(t, err)
		must(t, f.Close())
		images = append(images, path)
	}
	var running []*process
	for n, image := range images {
		q := p
		if n > 1 {
			q = p.elsewhere()
		}
		running = append(running, q.start("backup", image, "--parallel", "seal=1"))
	}
	looks := 0
	for done := false; !done; looks++ {
		var points []struct{ Damaged bool }
		p.show("points", &points)
		done = len(points) == jobs
		if t.Context().Err() != nil || looks > 2000 {
			t.Fatalf("%d points after %d looks", len(points), looks)
		}
	}
	var fresh int64
	for _, r := range running {
		s := r.end(0)
		fresh += s.New
		if s.Zero+s.Unchanged+s.Known+s.New != s.Disk {
			t.Errorf("the sums of %+v", s)
		}
	}
	p.points(jobs)
	p.verify()
	for n, image := range images {
		out := p.path("out.raw")
		p.run(0, "restore", fmt.Sprintf("guest%d.raw@latest", n), "--to", out, "--force")
		same(t, image, out)
	}
	p.contention(running)
	segments, err := filepath.Glob(filepath.Join(p.vault, "ledger", "*"))
	must(t, err)
	t.Logf("%d jobs of %d MiB, half of it common: %d MiB new, %d segments, %d looks at the points meanwhile", jobs, mib, fresh>>20, len(segments), looks)
	for n, image := range images[:2] { // all that any of them stored is found by all
		if s := p.run(0, "backup", image, "--scan", "full"); s.New != 0 {
			t.Errorf("guest %d again: %d new bytes", n, s.New)
		}
	}
	p.noHeartbeats()
}
