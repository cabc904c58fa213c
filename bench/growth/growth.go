package growth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/bench/picture"
	"github.com/millrace-backup/millrace/bench/workload"
)

// Options of a measurement.
type Options struct {
	Dir     string // work folder with room for four times the size; what is made in it is removed
	Program string // Millrace
	Files   string // folder whose files fill the images
	Size    int64  // of the largest
	Holes   []int64
	Runs    int
	Say     func(format string, args ...any)
}

// Step is one command on one disk.
type Step struct {
	Phase    string       `json:"phase"` // full, unchanged, restore; of holes: second
	Size     int64        `json:"size_bytes"`
	Data     int64        `json:"data_bytes"`
	Seconds  gauge.Spread `json:"seconds"`
	CPU      gauge.Spread `json:"cpu_s"`
	Memory   gauge.Spread `json:"memory_bytes"`
	Metadata int64        `json:"metadata_bytes"` // that the vault grew by
}

// Line is what the figures of a phase come to: fixed + slope × GiB of data.
type Line struct {
	Phase      string  `json:"phase"`
	FixedS     float64 `json:"fixed_s"`
	PerGiBS    float64 `json:"s_per_gib"`
	FixedCPU   float64 `json:"fixed_cpu_s"`
	PerGiBCPU  float64 `json:"cpu_s_per_gib"`
	LargestOff float64 `json:"largest_deviation_percent"` // of a CPU median from the line
}

// Result is all that was found out.
type Result struct {
	Machine gauge.Machine `json:"machine"`
	Runs    int           `json:"runs"`
	Steps   []Step        `json:"steps"`
	Lines   []Line        `json:"lines"`
	Checks  []gauge.Check `json:"checks,omitempty"`
}

// The phases.
const (
	full      = "full"
	unchanged = "unchanged"
	restore   = "restore"
	hole      = "a hole, second backup"
)

// MostHole is the largest disk that is tried: ext4 has no larger files.
const MostHole = 1<<44 - 4096

// Measure does everything.
func Measure(ctx context.Context, o Options) (r *Result, err error) {
	work := filepath.Join(o.Dir, "growth")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	o.Dir = work
	r = &Result{Machine: gauge.Here(work), Runs: o.Runs}
	for _, part := range []int64{8, 4, 2, 1} {
		size := o.Size / part >> 20 << 20
		image := filepath.Join(work, "image.raw")
		if _, err := workload.Tree(ctx, image, o.Files, size); err != nil {
			return nil, err
		}
		if err := r.disk(ctx, o, image, full, unchanged, restore); err != nil {
			return nil, err
		}
	}
	for _, size := range o.Holes {
		image := filepath.Join(work, "hole.raw")
		if err := workload.Zero(image, min(size, MostHole)); err != nil {
			return nil, err
		}
		if err := r.disk(ctx, o, image, "", hole); err != nil {
			return nil, err
		}
	}
	for _, phase := range []string{full, unchanged, restore} {
		r.Lines = append(r.Lines, r.line(phase))
	}
	if n := len(r.Steps) - 1; r.Steps[n].Phase == hole && r.Steps[n].Size == MostHole {
		r.Checks = []gauge.Check{{Name: "second backup of 16 TiB of which nothing is read, s", Limit: 1, Value: r.Steps[n].Seconds}}
	}
	return r, nil
}

// disk runs the phases on an image, in their order, and removes it. A phase without a
// name is run and not counted.
func (r *Result) disk(ctx context.Context, o Options, image string, phases ...string) error {
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	data, err := gauge.DiskUsage(image)
	if err != nil {
		return err
	}
	p := gauge.Program{Path: o.Program, Folder: filepath.Join(o.Dir, "job")}
	costs, meta := map[string][]gauge.Cost{}, map[string]int64{}
	for range o.Runs {
		if err := p.Init(ctx); err != nil {
			return err
		}
		if data > 0 {
			if err := gauge.Warm(image); err != nil {
				return err
			}
		}
		for _, phase := range phases {
			c, grown, err := step(ctx, p, image, phase)
			if err != nil {
				return fmt.Errorf("%s of %d bytes: %w", phase, info.Size(), err)
			}
			costs[phase], meta[phase] = append(costs[phase], c), grown
		}
		if err := p.Remove(); err != nil {
			return err
		}
	}
	for _, phase := range phases {
		if phase == "" {
			continue
		}
		s := Step{
			Phase: phase, Size: info.Size(), Data: data, Metadata: meta[phase],
			Seconds: gauge.Over(costs[phase], func(c gauge.Cost) float64 { return c.Seconds }),
			CPU:     gauge.Over(costs[phase], func(c gauge.Cost) float64 { return c.CPU }),
			Memory:  gauge.Over(costs[phase], func(c gauge.Cost) float64 { return float64(c.Memory) }),
		}
		o.Say("%-22s %8d MiB of data: %6.2f s %6.2f CPU-s", phase, data>>20, s.Seconds.Median, s.CPU.Median)
		r.Steps = append(r.Steps, s)
	}
	return os.Remove(image)
}

// step runs one command, and says what the vault grew by besides chunks.
func step(ctx context.Context, p gauge.Program, image, phase string) (c gauge.Cost, grown int64, err error) {
	before, err := gauge.Metadata(p.Vault())
	if err != nil {
		return c, 0, err
	}
	if phase == restore {
		to := filepath.Join(p.Folder, "restored.raw")
		_, c, err = p.Run(ctx, "restore", "latest", "--quiet", "--to", to)
	} else {
		_, c, err = p.Backup(ctx, image)
	}
	if err != nil {
		return c, 0, err
	}
	after, err := gauge.Metadata(p.Vault())
	return c, after - before, err
}

const gib = 1 << 30

// line fits a line through the medians of a phase.
func (r *Result) line(phase string) Line {
	var x, wall, cpu []float64
	for _, s := range r.Steps {
		if s.Phase == phase {
			x, wall, cpu = append(x, float64(s.Data)/gib), append(wall, s.Seconds.Median), append(cpu, s.CPU.Median)
		}
	}
	l := Line{Phase: phase}
	l.FixedS, l.PerGiBS = fit(x, wall)
	l.FixedCPU, l.PerGiBCPU = fit(x, cpu)
	for i := range x {
		if want := l.FixedCPU + l.PerGiBCPU*x[i]; want > 0 {
			l.LargestOff = max(l.LargestOff, 100*math.Abs(cpu[i]-want)/want)
		}
	}
	return l
}

// fit is the line of least squares.
func fit(x, y []float64) (fixed, slope float64) {
	var mx, my, xx, xy float64
	for i := range x {
		mx, my = mx+x[i]/float64(len(x)), my+y[i]/float64(len(x))
	}
	for i := range x {
		xx, xy = xx+(x[i]-mx)*(x[i]-mx), xy+(x[i]-mx)*(y[i]-my)
	}
	if xx > 0 {
		slope = xy / xx
	}
	return my - slope*mx, slope
}

// Print writes the result as Markdown.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s %d run(s), medians and ranges.\n\n", r.Machine, r.Runs)
	rows := [][]string{{"phase", "disk MiB", "data MiB", "s", "CPU-s", "memory MiB", "tables and ledger, bytes"}}
	for _, s := range r.Steps {
		rows = append(rows, []string{
			s.Phase, fmt.Sprint(s.Size >> 20), fmt.Sprint(s.Data >> 20), s.Seconds.Text("%.2f"), s.CPU.Text("%.2f"),
			fmt.Sprintf("%.0f", s.Memory.Median/(1<<20)), fmt.Sprint(s.Metadata),
		})
	}
	if err := gauge.Table(w, 1, rows...); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = [][]string{{"phase", "s", "CPU-s", "furthest from the line"}}
	for _, l := range r.Lines {
		rows = append(rows, []string{
			l.Phase, fmt.Sprintf("%.2f + %.2f a GiB", l.FixedS, l.PerGiBS), fmt.Sprintf("%.2f + %.2f a GiB", l.FixedCPU, l.PerGiBCPU), fmt.Sprintf("%.0f %%", l.LargestOff),
		})
	}
	if err := gauge.Table(w, 1, rows...); err != nil || len(r.Checks) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nA disk of holes stands for one of which nothing is read; go run ./bench/running measures one whose bitmap says that nothing changed.")
	fmt.Fprintln(w)
	return gauge.PrintChecks(w, r.Checks)
}

// Draw writes growth.svg into a folder.
func (r *Result) Draw(dir string) (err error) {
	var lines []picture.Line
	for _, phase := range []string{full, unchanged, restore} {
		l := picture.Line{Name: phase}
		for _, s := range r.Steps {
			if s.Phase == phase {
				l.Points = append(l.Points, picture.Point{X: float64(s.Data) / gib, Y: s.CPU.Median, Low: s.CPU.Least, High: s.CPU.Most})
			}
		}
		lines = append(lines, l)
	}
	f, err := os.Create(filepath.Join(dir, "growth.svg"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return picture.Curves(f, picture.Frame{Title: "Processor time by size", X: "GiB of data", Y: "CPU-s"}, lines)
}
