package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestRunKept: what was written to a run's disk becomes a point, for which only that is read,
// whatever points there are meanwhile; a job that dies leaves a run of which the next makes it.
func TestRunKept(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs and processes")
	}
	t.Parallel()
	p := newPlace(t, program(t), filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk", 64)
	must(t, os.Truncate(image, 64<<20-100)) // is served in whole sectors
	p.run(0, "backup", image)
	content, err := os.ReadFile(image)
	must(t, err)
	var r runOf
	p.show("run", &r, "start", "latest", "--name", "one")
	defer func() { _ = p.command("run", "stop", "one", "--discard").Run() }()
	// The guest goes on where it is, and is backed up: the run's point is not its newest.
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("elsewhere"), 100_000), 9<<20)
	must(t, err)
	must(t, f.Close())
	p.run(0, "backup", image)
	c := r.dial(t)
	changed := int64(0)
	for n := range 60 {
		b := make([]byte, 512*(1+rand.IntN(20)))
		_, _ = rand.NewChaCha8([32]byte{byte(n), 1}).Read(b)
		at := 20<<20 + rand.Int64N(8<<20/512)*512 // in three cells of sixteen
		if n == 0 {
			at = int64(len(content))/512*512 - int64(len(b)) + 512 // to the end, and behind it
		}
		_, err := c.WriteAt(b, at)
		must(t, err)
		changed += int64(copy(content[at:], b))
	}
	must(t, c.Close()) // not flushed
	p.run(2, "run", "stop", "one")
	job := p.start("run", "stop", "one", "--keep")
	for begun := time.Now(); len(r.processes("rundirect")) == 0 || time.Since(begun) < 300*time.Millisecond; {
		time.Sleep(10 * time.Millisecond)
	}
	must(t, syscall.Kill(job.cmd.Process.Pid, syscall.SIGKILL))
	_ = job.cmd.Wait()
	kept := p.kept("one", content)
	if kept.Read > 4*4<<20 || kept.New > 8<<20 { // blocks of that point are not known any more: cells are read whole
		t.Errorf("%d bytes changed; %+v", changed, kept)
	}
	// Of a guest that runs from the newest point, no more than the changed blocks is read
	// and stored, where the cell was read whole before.
	p.show("run", &r, "start", kept.Point, "--name", "two")
	defer func() { _ = p.command("run", "stop", "two", "--discard").Run() }()
	c = r.dial(t)
	_, err = c.WriteAt(content[:512], 21<<20+512)
	must(t, err)
	copy(content[21<<20+512:], content[:512])
	must(t, c.Close())
	if kept := p.kept("two", content); kept.Read > 4096 || kept.New > 4096 {
		t.Errorf("a sector changed; %+v", kept)
	}
	if p.show("run", &[]runOf{}, "list"); len(r.processes("")) > 0 {
		t.Error("left running")
	}
	p.verify()
}

// kept is what came of a run that was kept.
type kept struct {
	Point string
	Read  int64 `json:"read_bytes"`
	New   int64 `json:"new_bytes"`
}

// kept keeps a run, whose point must have this content and be incremental.
func (p *place) kept(run string, content []byte) (k kept) {
	p.Helper()
	p.show("run", &k, "stop", run, "--keep")
	out := p.path("out-" + run)
	p.run(0, "restore", k.Point, "--to", out, "--format", "raw")
	if is, err := os.ReadFile(out); err != nil || !bytes.Equal(is, content) {
		p.Errorf("the point is not what was written: %v", err)
	}
	var points []listed
	p.show("points", &points)
	for _, point := range points {
		if point.ID == k.Point && point.Scan == "incremental" && point.Consistency == "crash-consistent" {
			return k
		}
	}
	p.Errorf("point %s is listed so: %+v", k.Point, points)
	return k
}
