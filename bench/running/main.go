package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// bench is what is measured, and where.
type bench struct {
	program, folder, tree string
	size, data, huge      int64
	load                  int64 // size of the disk that is written to while it is backed up
	pages                 int64 // bytes in the page cache of each disk that is frozen
	increments            int
	runs, jobs            int
	flags                 []string // further ones of backups in series
	only                  string   // of the series; empty: all
	profile               string   // folder for profiles of increments; empty: none are made
	place                 func(ctx context.Context, name string) (place, error)
	say                   func(format string, args ...any)
}

// result is all that was found out.
type result struct {
	Machine gauge.Machine `json:"machine"`
	Series  []*series     `json:"series,omitempty"`
	Idle    []job         `json:"nothing_changed,omitempty"`
	Load    *load         `json:"load,omitempty"`
	Freezes []job         `json:"freezes,omitempty"`
	Checks  []gauge.Check `json:"checks"`
}

func main() {
	b := bench{say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	var dir, only, data, size, huge, flags, out string
	flag.StringVar(&b.program, "millrace", "millrace", "the program to measure")
	flag.StringVar(&dir, "dir", "", "work folder with room for four times the data (default: a temporary one)")
	flag.StringVar(&only, "only", "increments,idle,load,freeze", "what to measure")
	flag.StringVar(&size, "size", "100GiB", "size of the disk of which increments are made")
	flag.StringVar(&data, "data", "8GiB", "how much data it holds")
	flag.StringVar(&huge, "huge", "16TiB", "size of the disk on which nothing changes")
	flag.StringVar(&b.tree, "files", "/usr", "folder whose files are the data of the second disk")
	flag.IntVar(&b.increments, "n", 10, "how many increments of each kind")
	flag.IntVar(&b.runs, "runs", 5, "how often the disk on which nothing changes is backed up")
	flag.IntVar(&b.jobs, "jobs", 20, "how often a guest is frozen")
	flag.StringVar(&flags, "flags", "", "further flags of millrace backup for the increments")
	flag.StringVar(&b.only, "series", "", "of the series of increments those whose names have this in them")
	flag.StringVar(&b.profile, "profile", "", "folder in which each process of the increments leaves a profile of its processor time")
	flag.StringVar(&out, "out", "", "folder for the result as JSON and Markdown")
	flag.Parse()
	b.flags = strings.Fields(flags)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := func() (err error) {
		for text, to := range map[string]*int64{size: &b.size, data: &b.data, huge: &b.huge} {
			n, err := humanize.ParseBytes(text)
			if err != nil || n < region || n > 1<<50 {
				return fmt.Errorf("%s is no size of %d bytes or more", text, region)
			}
			*to = int64(n) / region * region
		}
		return b.all(ctx, dir, out, strings.Split(only, ","))
	}()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "running:", err)
		os.Exit(1)
	}
}

// all measures in a folder of its own, which it removes.
func (b *bench) all(ctx context.Context, dir, out string, only []string) (err error) {
	if b.program, err = exec.LookPath(b.program); err != nil {
		return err
	}
	if b.program, err = filepath.Abs(b.program); err != nil {
		return err
	}
	if b.folder, err = os.MkdirTemp(dir, "millrace-running-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.folder)) }()
	if b.folder, err = filepath.Abs(b.folder); err != nil {
		return err
	}
	b.load, b.pages = 1<<30, 64<<20
	b.place = func(ctx context.Context, name string) (place, error) {
		g := gauge.Program{Path: b.program, Folder: filepath.Join(b.folder, name)}
		return place{g.Path, g.Folder, g.Env()}, g.Init(ctx)
	}
	r := &result{Machine: gauge.Here(b.folder)}
	if err := r.measure(ctx, b, only); err != nil {
		return err
	}
	if out != "" {
		if err := r.save(out); err != nil {
			return err
		}
	}
	return r.print(os.Stdout)
}

func (r *result) measure(ctx context.Context, b *bench, only []string) (err error) {
	has := func(part string) bool { return slices.Contains(only, part) }
	if has("increments") {
		r.Series = b.series()
		for _, s := range r.Series {
			if err := s.run(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
		}
		r.Checks = append(r.Checks, judge(r.Series)...)
	}
	if has("idle") {
		if r.Idle, err = b.idle(ctx); err != nil {
			return fmt.Errorf("nothing changed: %w", err)
		}
		r.Checks = append(r.Checks, judgeIdle(r.Idle, b.huge))
	}
	if has("load") {
		l, err := b.loaded(ctx)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		r.Load = &l
		r.Checks = append(r.Checks, judgeLoad(l))
	}
	if has("freeze") {
		if r.Freezes, err = b.freezes(ctx); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
		r.Checks = append(r.Checks, judgeFreezes(r.Freezes))
	}
	return nil
}

// series are all that are made: of noise with fine and with coarse bitmaps, and a third
// full backup, so that its time is a median; and the same of real files.
func (b *bench) series() (out []*series) {
	for _, c := range []struct {
		content, format, codec string
		n                      int
	}{{"noise", "raw", "none", b.increments}, {"files", "qcow2", "auto", min(b.increments, 3)}} {
		for n, granularity := range []int64{4 << 10, 64 << 10, 4 << 10} {
			s := &series{Content: c.content, Format: c.format, Codec: c.codec, Granularity: granularity, Size: b.size, Data: b.data, count: c.n}
			if s.Name = fmt.Sprintf("%s, %s, bitmap of %d KiB", c.content, c.format, granularity>>10); n == 2 {
				s.count = 0
			}
			if strings.Contains(s.Name, b.only) {
				out = append(out, s)
			}
		}
	}
	return out
}

// print writes the result as Markdown.
func (r *result) print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	rows := [][]string{{"disk", "full s", "increment s", "CPU-s", "MiB changed", "reported", "read", "sampled", "vault grew by"}}
	mib := func(s *series, figure func(job) int64) string {
		return gauge.Over(s.Increments, func(j job) float64 { return float64(figure(j)) / (1 << 20) }).Text("%.1f")
	}
	for _, s := range r.Series {
		if len(s.Increments) == 0 {
			rows = append(rows, []string{s.Name, fmt.Sprintf("%.1f", s.Full.Seconds), "", "", "", "", "", "", ""})
			continue
		}
		rows = append(rows, []string{
			s.Name, fmt.Sprintf("%.1f", s.Full.Seconds), gauge.Over(s.Increments, func(j job) float64 { return j.Seconds }).Text("%.2f"),
			gauge.Over(s.Increments, func(j job) float64 { return j.CPU }).Text("%.2f"),
			mib(s, func(j job) int64 { return j.Changed }), mib(s, func(j job) int64 { return j.Dirty }), mib(s, func(j job) int64 { return j.Read }),
			mib(s, func(j job) int64 { return j.Sampled }), mib(s, func(j job) int64 { return j.Grown }),
		})
	}
	if len(rows) > 1 {
		if err := gauge.Table(w, 1, rows...); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if l := r.Load; l != nil {
		fmt.Fprintf(w, "Guest: %s writes a second idle, %s during a backup of %.0f s and %.1f CPU-s.\n\n",
			gauge.Of(l.Idle...).Text("%.0f"), gauge.Of(l.During...).Text("%.0f"), l.Seconds, l.CPU)
	}
	return gauge.PrintChecks(w, r.Checks)
}

func (r *result) save(dir string) error {
	if err := gauge.Save(dir, "running.json", r); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "running.md"))
	if err != nil {
		return err
	}
	return errors.Join(r.print(f), f.Close())
}
