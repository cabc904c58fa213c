package sweep

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/flow"
)

// Options of a sweep.
type Options struct {
	Image   string
	Dir     string // work folder with room for the image; what is made in it is removed
	Program string // Millrace
	CPUs    int    // that the points are derived from
	Rounds  int
	Limit   time.Duration // no round is begun that would end after it
	Points  []Point       // nil: those of CPUs
	Say     func(format string, args ...any)
}

// Outcome is how a point did.
type Outcome struct {
	Point
	MiBs   gauge.Spread            `json:"mib_per_s"`
	CPUGiB gauge.Spread            `json:"cpu_s_per_gib"`
	Stages map[string]gauge.Spread `json:"stage_cpu_s_per_gib"` // and of "conductor"
	Busy   map[string]gauge.Spread `json:"stage_busy_percent"`  // of the workers' life
	Stored int64                   `json:"stored_bytes"`
}

// Result is all that was found out.
type Result struct {
	Machine  gauge.Machine `json:"machine"`
	Image    string        `json:"image"`
	Bytes    int64         `json:"data_bytes"`
	Rounds   int           `json:"rounds"`
	Seconds  float64       `json:"seconds"` // that it took
	Outcomes []Outcome     `json:"outcomes"`
	Best     string        `json:"best"`             // of those with the default codec
	Race     gauge.Spread  `json:"defaults_to_best"` // speed, run by run, in a second race
	Check    gauge.Check   `json:"check"`
}

const rest = "conductor"

// sample is one run.
type sample struct {
	seconds, cpu float64
	read, stored int64
	stages       map[string]float64 // CPU seconds
	busy         map[string]float64 // percent
}

// bench is a sweep while it runs.
type bench struct {
	Options
	program gauge.Program
	began   time.Time
	samples map[string][]sample
}

// Measure does everything.
func Measure(ctx context.Context, o Options) (r *Result, err error) {
	if o.Points == nil {
		o.Points = Points(o.CPUs)
	}
	b := &bench{Options: o, program: gauge.Program{Path: o.Program, Folder: filepath.Join(o.Dir, "sweep")}, began: time.Now(), samples: map[string][]sample{}}
	defer func() { err = errors.Join(err, b.program.Remove()) }()
	r = &Result{Machine: gauge.Here(o.Dir), Image: filepath.Base(o.Image)}
	// A fifth of the time is for the race at the end.
	for until := o.Limit * 8 / 10; r.Rounds < o.Rounds; r.Rounds++ {
		if spent := time.Since(b.began); r.Rounds > 0 && spent+spent/time.Duration(r.Rounds) > until {
			o.Say("%d rounds took %s: the time is up", r.Rounds, spent.Round(time.Second))
			break
		}
		if err := b.round(ctx, r.Rounds, until); err != nil {
			return nil, err
		}
	}
	b.sum(r)
	if err := b.race(ctx, r); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(b.began).Seconds()
	return r, nil
}

// round runs every point once, the defaults first in the first round.
func (b *bench) round(ctx context.Context, n int, until time.Duration) error {
	order := rand.New(rand.NewPCG(1, uint64(n))).Perm(len(b.Points))
	if n == 0 {
		first := slices.Index(order, 0)
		order[0], order[first] = order[first], order[0]
	}
	for i, k := range order {
		if n == 0 && i > 0 && time.Since(b.began) > until {
			b.Say("the time is up after %d of %d points", i, len(order))
			return nil
		}
		if err := b.run(ctx, b.Points[k]); err != nil {
			return err
		}
		of := b.samples[b.Points[k].Name]
		s := of[len(of)-1]
		b.Say("round %d, %2d of %d: %-20s %6.2f s %6.2f CPU-s", n+1, i+1, len(order), b.Points[k].Name, s.seconds, s.cpu)
	}
	return nil
}

// run makes one backup.
func (b *bench) run(ctx context.Context, p Point) error {
	if err := b.program.Init(ctx); err != nil {
		return err
	}
	if err := gauge.Warm(b.Image); err != nil {
		return err
	}
	s, c, err := b.program.Backup(ctx, b.Image, p.flags()...)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	workers, err := b.program.Workers(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	x := sample{seconds: s.Duration, cpu: c.CPU, read: s.Read, stored: s.Stored, stages: map[string]float64{rest: c.CPU}, busy: map[string]float64{}}
	life := map[string]float64{}
	for _, w := range workers {
		x.stages[w.Stage] += w.CPU
		x.stages[rest] -= w.CPU
		x.busy[w.Stage] += w.Busy
		life[w.Stage] += w.Busy + w.Starved + w.Blocked
	}
	for stage := range x.busy {
		x.busy[stage] *= 100 / max(life[stage], 1e-9)
	}
	b.samples[p.Name] = append(b.samples[p.Name], x)
	return b.program.Remove()
}

// sum makes medians of the samples.
func (b *bench) sum(r *Result) {
	for _, p := range b.Points {
		of := b.samples[p.Name]
		if len(of) == 0 {
			continue
		}
		if r.Bytes == 0 {
			r.Bytes = of[0].read
		}
		gib := float64(r.Bytes) / (1 << 30)
		x := Outcome{
			Point: p, Stored: of[0].stored, Stages: map[string]gauge.Spread{}, Busy: map[string]gauge.Spread{},
			MiBs:   gauge.Over(of, func(s sample) float64 { return 1024 * gib / s.seconds }),
			CPUGiB: gauge.Over(of, func(s sample) float64 { return s.cpu / gib }),
		}
		for _, stage := range parts() {
			x.Stages[stage] = gauge.Over(of, func(s sample) float64 { return max(s.stages[stage], 0) / gib })
			if stage != rest {
				x.Busy[stage] = gauge.Over(of, func(s sample) float64 { return s.busy[stage] })
			}
		}
		r.Outcomes = append(r.Outcomes, x)
	}
}

func parts() []string { return append(flow.Stages(), rest) }

// race runs the best point and the defaults again, in turn.
func (b *bench) race(ctx context.Context, r *Result) error {
	best := -1
	for i, x := range r.Outcomes {
		if x.Codec == normalCodec && (best < 0 || x.MiBs.Median > r.Outcomes[best].MiBs.Median) {
			best = i
		}
	}
	if best < 0 {
		return errors.New("no point was measured")
	}
	r.Best = r.Outcomes[best].Name
	r.Race = gauge.Of(1)
	if r.Best != b.Points[0].Name {
		b.Say("%s was best: once more beside the defaults", r.Best)
		both := []Point{b.Points[0], r.Outcomes[best].Point}
		clear(b.samples)
		var ratios []float64
		for n := range max(r.Rounds, 3) {
			for i := range both {
				if err := b.run(ctx, both[(i+n)%2]); err != nil {
					return err
				}
			}
			ratios = append(ratios, b.samples[both[1].Name][n].seconds/b.samples[both[0].Name][n].seconds)
			if time.Since(b.began) > b.Limit*95/100 {
				break
			}
		}
		r.Race = gauge.Of(ratios...)
	}
	r.Check = gauge.Check{Name: "speed of the defaults beside the best point of the sweep, " + r.Best, Limit: 0.95, Least: true, Value: r.Race}
	return nil
}
