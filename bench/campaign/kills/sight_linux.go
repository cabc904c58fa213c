package kills

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

// sight is what can be seen of a job, and of the vault it works in, from outside.
type sight struct {
	workers int
	read    int64 // bytes, by the readers that live
	stored  int64 // bytes below packs/ and tmp/
	objects int   // elsewhere in the vault
}

// look looks at a vault and at a job's processes. What goes meanwhile is left out.
func look(p *rig.Place, group int) (s sight) {
	if group != 0 {
		for _, w := range workers(group) {
			s.workers++
			if w.stage == "reader" {
				s.read += rig.HasRead(w.pid)
			}
		}
	}
	_ = filepath.WalkDir(p.Vault, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		below, _ := filepath.Rel(p.Vault, path)
		if folder, _, _ := strings.Cut(below, string(filepath.Separator)); folder != "packs" && folder != "tmp" {
			s.objects++
		} else if info, err := d.Info(); err == nil {
			s.stored += info.Size()
		}
		return nil
	})
	return s
}

// of is how much of what a mark's kind counts there is, since before.
func (m mark) of(now, before sight) int64 {
	switch m.kind {
	case atStart:
		return int64(now.workers)
	case atReading:
		return now.read
	case atStoring:
		return now.stored - before.stored
	}
	return int64(now.objects - before.objects)
}

const glance = time.Millisecond // between two looks

// reached waits for the run's mark, and reports whether the job still runs.
func (r *run) reached(ctx context.Context, job *rig.Process, before sight) bool {
	for r.mark.of(look(r.place, job.PID()), before) < r.mark.want(r.course) {
		if !pause(ctx, job, glance) {
			return false
		}
	}
	return true
}

// watched backs up and tells what the job did.
func watched(ctx context.Context, p *rig.Place, image string) (c course, err error) {
	before := look(p, 0)
	job, err := p.Start(ctx, nil, "backup", image)
	if err != nil {
		return c, err
	}
	for {
		now := look(p, job.PID())
		c.workers, c.read = max(c.workers, now.workers), max(c.read, now.read)
		c.stored, c.objects = max(c.stored, now.stored-before.stored), max(c.objects, now.objects-before.objects)
		if now.workers > 0 {
			c.serving = c.objects
		}
		if !pause(ctx, job, glance) {
			break
		}
	}
	end, err := job.Wait()
	if err == nil && end.Exit != 0 {
		err = end.Err("backup")
	}
	return c, err
}
