package primitives

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/vault"
)

// Options of a measurement.
type Options struct {
	Image   string   // of a disk, in a format that is told by its signature
	Dir     string   // work folder with room for the image twice; what is made in it is removed
	Program string   // Millrace
	Relay   []string // command that runs package relay; parcels and folder are appended
	Runs    int
	Threads int // of the bare loop
	Say     func(format string, args ...any)
}

// Step is what one primitive took.
type Step struct {
	Name   string       `json:"name"`
	Summed bool         `json:"summed"` // part of the sum for the default codec
	MiBs   gauge.Spread `json:"mib_per_s"`
	CPUGiB gauge.Spread `json:"cpu_s_per_gib"` // of the image's data, not of what the step worked on
}

// Whole is what a whole way of doing it took.
type Whole struct {
	Name   string       `json:"name"`
	MiBs   gauge.Spread `json:"mib_per_s"` // of the image's data
	CPUGiB gauge.Spread `json:"cpu_s_per_gib"`
	Stored int64        `json:"stored_bytes"`
}

// Result is all that was found out.
type Result struct {
	Machine gauge.Machine `json:"machine"`
	Image   string        `json:"image"`
	Bytes   int64         `json:"data_bytes"`
	Parcels uint64        `json:"parcels"` // that the job had
	Threads int           `json:"threads"`
	Runs    int           `json:"runs"`
	Steps   []Step        `json:"steps"`
	Sum     gauge.Spread  `json:"sum_cpu_s_per_gib"`
	Wholes  []Whole       `json:"wholes"`
	Checks  []gauge.Check `json:"checks"`
}

// normal is the default codec.
const normal = "auto"

// The ways of doing the whole work.
const (
	loopNormal = "bare loop, " + normal
	loopLZ4    = "bare loop, lz4"
	loopS2     = "bare loop, s2"
	jobNormal  = "millrace backup"
	jobLZ4     = "millrace backup --codec lz4"
	jobInline  = "millrace backup --transport inline"
	forwarding = "forwarding alone"
)

func wholes() []string {
	return []string{loopNormal, loopS2, loopLZ4, jobNormal, jobLZ4, jobInline, forwarding}
}

// bench is a measurement while it runs.
type bench struct {
	Options
	*kit
	folder  string
	program gauge.Program
	steps   map[string][]took // by step, one for each run
	costs   map[string][]gauge.Cost
	stored  map[string]int64
	parcels uint64
}

// Measure does everything.
func Measure(ctx context.Context, o Options) (r *Result, err error) {
	b := &bench{
		Options: o, folder: filepath.Join(o.Dir, "primitives"), program: gauge.Program{Path: o.Program, Folder: filepath.Join(o.Dir, "job")},
		steps: map[string][]took{}, costs: map[string][]gauge.Cost{}, stored: map[string]int64{},
	}
	if b.kit, err = newKit(ctx, o.Image, b.folder); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.image.Close(), b.program.Remove()) }()
	machine := gauge.Here(o.Dir)
	for run := range o.Runs {
		if err := b.once(ctx, run); err != nil {
			return nil, err
		}
	}
	r = b.result()
	r.Machine = machine
	return r, nil
}

// once measures everything once; what comes first changes from run to run.
func (b *bench) once(ctx context.Context, run int) error {
	if err := gauge.Warm(b.Image); err != nil {
		return err
	}
	b.Say("run %d of %d: primitives", run+1, b.Runs)
	all, err := b.alone(ctx, vault.Codecs(), normal)
	if err != nil {
		return err
	}
	for name, t := range all {
		b.steps[name] = append(b.steps[name], *t)
	}
	if err := b.sweep(b.folder); err != nil {
		return err
	}
	// Forwarding is as long as the job was, so it stays last.
	ways := wholes()
	ways, last := ways[:len(ways)-1], ways[len(ways)-1]
	for i := range ways {
		if err := b.whole(ctx, run, ways[(i+run)%len(ways)]); err != nil {
			return err
		}
	}
	return b.whole(ctx, run, last)
}

// whole measures one way of doing it all.
func (b *bench) whole(ctx context.Context, run int, way string) (err error) {
	if err := gauge.Warm(b.Image); err != nil {
		return err
	}
	var c gauge.Cost
	switch way {
	case loopNormal, loopLZ4, loopS2:
		codec := map[string]string{loopNormal: normal, loopLZ4: "lz4", loopS2: "s2"}[way]
		if c, b.stored[way], err = b.loop(ctx, codec, b.Threads); err == nil {
			err = b.sweep(b.folder)
		}
	case forwarding:
		command := append(append([]string{}, b.Relay...), "--parcels", strconv.FormatUint(b.parcels, 10), "--dir", b.Dir)
		_, c, err = gauge.Run(ctx, b.Dir, nil, command)
	default:
		flags := map[string][]string{jobLZ4: {"--codec", "lz4"}, jobInline: {"--transport", "inline"}}[way]
		c, err = b.backup(ctx, way, flags)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", way, err)
	}
	b.Say("run %d of %d: %-34s %6.2f s %6.2f CPU-s", run+1, b.Runs, way, c.Seconds, c.CPU)
	b.costs[way] = append(b.costs[way], c)
	return nil
}

func (b *bench) backup(ctx context.Context, way string, flags []string) (gauge.Cost, error) {
	if err := b.program.Init(ctx); err != nil {
		return gauge.Cost{}, err
	}
	s, c, err := b.program.Backup(ctx, b.Image, flags...)
	if err != nil {
		return c, err
	}
	b.stored[way] = s.Stored
	workers, err := b.program.Workers(ctx)
	if err != nil {
		return c, err
	}
	if way == jobNormal {
		b.parcels = 0
		for _, w := range workers {
			if w.Stage == flow.Reader {
				b.parcels += w.Parcels
			}
		}
	}
	return c, b.program.Remove()
}

func (b *bench) result() *Result {
	r := &Result{Image: filepath.Base(b.Image), Bytes: b.bytes, Parcels: b.parcels, Threads: b.Threads, Runs: b.Runs}
	gib := float64(b.bytes) / (1 << 30)
	order := []string{stepRead, stepBlocks, stepCut, stepIDs}
	for _, c := range vault.Codecs() {
		order = append(order, stepCodec+c)
	}
	order = append(order, stepSeal, stepVerify, stepSHA, stepWrite)
	sums := make([]float64, b.Runs)
	for _, name := range order {
		s := Step{Name: name, Summed: name != stepSHA}
		if _, ok := codecOf(name); ok {
			s.Summed = name == stepCodec+normal
		}
		s.MiBs = gauge.Over(b.steps[name], func(t took) float64 { return float64(t.bytes) / (1 << 20) / max(t.wall.Seconds(), 1e-9) })
		s.CPUGiB = gauge.Over(b.steps[name], func(t took) float64 { return t.cpu.Seconds() / gib })
		for run := range sums {
			if s.Summed {
				sums[run] += s.CPUGiB.All[run]
			}
		}
		r.Steps = append(r.Steps, s)
	}
	r.Sum = gauge.Of(sums...)
	for _, way := range wholes() {
		r.Wholes = append(r.Wholes, Whole{
			Name: way, Stored: b.stored[way],
			MiBs:   gauge.Over(b.costs[way], func(c gauge.Cost) float64 { return 1024 * gib / c.Seconds }),
			CPUGiB: gauge.Over(b.costs[way], func(c gauge.Cost) float64 { return c.CPU / gib }),
		})
	}
	r.Checks = b.checks(sums, gib)
	return r
}

func codecOf(step string) (string, bool) {
	if len(step) > len(stepCodec) && step[:len(stepCodec)] == stepCodec {
		return step[len(stepCodec):], true
	}
	return "", false
}

// checks compares run by run: what disturbs the machine disturbs both sides.
func (b *bench) checks(sums []float64, gib float64) []gauge.Check {
	ratio := func(f func(run int) float64) gauge.Spread {
		var all []float64
		for run := range b.Runs {
			all = append(all, f(run))
		}
		return gauge.Of(all...)
	}
	cpu := func(way string, run int) float64 { return b.costs[way][run].CPU }
	return []gauge.Check{
		{Name: "CPU of all processes of a full backup, in sums of the primitives", Limit: 1.3, Value: ratio(func(n int) float64 { return cpu(jobNormal, n) / gib / sums[n] })},
		{Name: "CPU of forwarding as many claims, in % of the job's", Limit: 6, Value: ratio(func(n int) float64 { return 100 * cpu(forwarding, n) / cpu(jobNormal, n) })},
		{Name: "inline, CPU-s/GiB", Limit: 6, Value: ratio(func(n int) float64 { return cpu(jobInline, n) / gib })},
		{Name: "--codec lz4, speed in bare lz4 loops", Limit: 0.85, Least: true, Value: ratio(func(n int) float64 {
			return b.costs[loopLZ4][n].Seconds / b.costs[jobLZ4][n].Seconds
		})},
	}
}
