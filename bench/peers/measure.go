package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/bench/workload"
)

// Options of a measurement.
type Options struct {
	Image   string // it is copied, and stays as it is
	Dir     string // work folder with room for five times the image; what is made in it is removed
	Program string // Millrace
	More    []Adapter
	Changed float64 // share of blocks
	Runs    int
	Say     func(format string, args ...any)
}

// Wanted is how much content an image needs for figures that are worth telling.
const Wanted = 2 << 30

// Result is what one program took for one phase.
type Result struct {
	Run   int    `json:"run"`
	Tool  string `json:"tool"`
	Phase string `json:"phase"`
	gauge.Cost
	MiBs      float64 `json:"mib_per_s"`           // of allocated bytes
	CPUGiB    float64 `json:"cpu_s_per_gib"`       // of allocated bytes
	Stored    int64   `json:"stored_bytes"`        // what the repository grew by
	Metadata  int64   `json:"metadata_bytes"`      // of Millrace, of that: tables, ledger, checkpoints
	Allocated int64   `json:"allocated,omitempty"` // of the restored file
}

// Measure does everything.
func Measure(ctx context.Context, o Options) (r *Report, err error) {
	all := append(builtin(o.Program), o.More...)
	names := map[string]bool{}
	for _, a := range all {
		if err := a.Check(); err != nil {
			return nil, err
		}
		if names[a.Name] {
			return nil, fmt.Errorf("two programs are called %s", a.Name)
		}
		names[a.Name] = true
	}
	base := filepath.Join(o.Dir, "peers")
	image := filepath.Join(base, "disk", "image.raw")
	if err := os.MkdirAll(filepath.Dir(image), 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	r = &Report{Machine: gauge.Here(base), Runs: o.Runs, Changed: o.Changed, Versions: map[string]string{}}
	var here []*place
	for _, a := range all {
		if _, err := exec.LookPath(a.Init[0]); err != nil {
			r.Absent = append(r.Absent, a.Name+": "+err.Error())
			continue
		}
		here = append(here, newPlace(a, base, image))
		r.Tools = append(r.Tools, a.Name)
		r.Versions[a.Name] = version(ctx, a.Init[0])
	}
	if err := r.look(o.Image); err != nil {
		return nil, err
	}
	if r.Allocated < Wanted {
		o.Say("%s has only %d MiB of content: too little for figures to quote", filepath.Base(o.Image), r.Allocated>>20)
	}
	for run := range o.Runs {
		for _, p := range here {
			if err := p.init(ctx); err != nil {
				return nil, err
			}
		}
		if err := copySparse(ctx, o.Image, image); err != nil {
			return nil, err
		}
		if err := once(ctx, o, run, here, r); err != nil {
			return nil, err
		}
	}
	r.check()
	return r, nil
}

// version is the first line of what a program says of itself.
func version(ctx context.Context, program string) string {
	for _, flag := range []string{"--version", "version"} {
		if out, err := exec.CommandContext(ctx, program, flag).Output(); err == nil && len(out) > 0 {
			for i, c := range out {
				if c == '\n' {
					return string(out[:i])
				}
			}
			return string(out)
		}
	}
	return "unknown version"
}

// once runs all phases with new repositories. The first program of a phase changes
// from one to the next, so that none always has the machine as another left it.
func once(ctx context.Context, o Options, run int, here []*place, r *Report) error {
	image := here[0].image
	for n, phase := range phases() {
		if phase == changed {
			blocks, err := workload.Scatter(image, o.Changed, 1)
			if err != nil {
				return err
			}
			r.ChangedBytes = blocks * 4096
		}
		allocated, err := gauge.DiskUsage(image)
		if err != nil {
			return err
		}
		for i := range here {
			p := here[(i+n+run)%len(here)]
			if err := gauge.Warm(image); err != nil {
				return err
			}
			x, err := p.run(ctx, phase)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", p.Name, phase, err)
			}
			x.Run, x.MiBs, x.CPUGiB = run, float64(allocated)/(1<<20)/x.Seconds, x.CPU/(float64(allocated)/(1<<30))
			if phase == restore {
				r.RestoreOf = allocated
			}
			o.Say("run %d of %d: %-9s %-10s %7.2f s", run+1, o.Runs, phase, p.Name, x.Seconds)
			r.Results = append(r.Results, x)
		}
	}
	return nil
}
