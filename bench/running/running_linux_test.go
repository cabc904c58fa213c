package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/gauge"
)

// build makes the program, once.
var build = sync.OnceValues(func() (string, error) {
	var err error
	if built, err = os.MkdirTemp("", "running"); err != nil {
		return "", err
	}
	return rig.Build(context.Background(), built)
})

var built string // the folder with it; empty: nobody needed it

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// small is the benchmark at a size that takes seconds.
func small(t *testing.T) *bench {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	b := &bench{folder: t.TempDir(), size: 4 << 30, data: region, huge: 1 << 40, pages: 4 << 20, runs: 1, jobs: 1, say: t.Logf}
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	b.place = func(ctx context.Context, name string) (place, error) {
		p, err := rig.New(ctx, program, filepath.Join(b.folder, name), time.Now)
		if err != nil {
			return place{}, err
		}
		return place{program, p.Dir, []string{"MILLRACE_VAULT=" + p.Vault, "MILLRACE_STATE=" + p.State, "MILLRACE_PASSWORD_FILE=" + p.Path("password")}}, nil
	}
	return b
}

// What is read and stored keeps to its limits at a small size too, where what a job
// costs whatever it finds weighs more; and each point is the disk as it was. The second
// increment is made by the coarse bitmap that the first one began.
func TestBytesOfIncrements(t *testing.T) {
	b := small(t)
	s := &series{Content: "noise", Format: "qcow2", Codec: "none", Granularity: 4 << 10, Then: 64 << 10, Size: b.size, Data: b.data, count: 2, verify: true}
	if err := s.run(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, c := range judge([]*series{s}) {
		if c.Limit != mostTime && !c.Met() {
			t.Errorf("%s: %s, wanted %g", c.Name, c.Value.Text("%.3f"), c.Limit)
		}
	}
	if fine, coarse := s.Increments[0], s.Increments[1]; fine.Dirty != fine.Changed || coarse.Dirty < 8*coarse.Changed {
		t.Errorf("reported as changed are %d and %d bytes", fine.Dirty, coarse.Dirty)
	}
}

// Nothing is read of a disk on which nothing has changed, and four disks are frozen.
func TestIdleAndFreeze(t *testing.T) {
	b := small(t)
	_, err := b.idle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := b.freezes(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].Frozen <= 0 {
		t.Errorf("%v: %+v", err, jobs)
	}
}

// A figure that each increment must reach is that of the worst.
func TestWorst(t *testing.T) {
	c := worst("a", 2, gauge.Of(1, 1, 3))
	if c.Met() || c.Value.Median != 3 {
		t.Errorf("%+v", c)
	}
}
