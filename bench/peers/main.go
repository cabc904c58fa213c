// Command peers runs Millrace, restic and borg over the same disk image in the
// same minutes, and prints what each took.
//
// The image holds one file system with real files; rates are of its allocated
// bytes, as nobody reads holes. Five phases, all tools in turn within each: a
// first backup; a second of the same image; that again, with the tools that
// trust a file's times told to read it all the same (restic --force, borg
// --files-cache=disabled); one after 1 % of all 4 KiB blocks were overwritten,
// scattered, from a fixed seed; and a restore of the last to a raw file, which
// must be equal to the image byte by byte. With -runs N all of it is done N
// times with new repositories and another order of the tools; the table then
// has medians, and the range beside them.
//
// Before every measurement the image is read once, so that all find it in the
// page cache, and dirty pages are written out. CPU time and the largest process
// are what the kernel accounts to the tool's process and all descendants it
// waited for; for Millrace that is checked against the workers' own account.
// Memory is the sum over all processes of the tool, shared pages counted once,
// looked at four times a second. Stored is what du says the repository grew by.
//
// Millrace runs with its defaults (XAES-256-GCM, codec auto), restic with its own
// (AES-CTR, zstd), borg with repokey-blake2 and lz4. A tool that is not installed
// is left out and said to be. Everything lies in one temporary folder, which is
// removed at the end.
//
// It is a measurement, not a test: figures mean something beside each other on
// one idle machine, and nothing alone. Linux only.
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
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

// options of a run.
type options struct {
	millrace string // the program
	size     int64  // of the image
	folder   string // its files
	dir      string // for everything; removed at the end
	ratio    float64
	runs     int
	json     string // file for the figures
}

// wanted is how much content an image needs for figures that are worth telling.
const wanted = 2 << 30

func main() {
	var o options
	mib := flag.Int64("size", 3072, "size of the image in MiB; four fifths are filled")
	flag.StringVar(&o.millrace, "millrace", "millrace", "the program to measure")
	flag.StringVar(&o.folder, "folder", "/usr", "folder whose files fill the image")
	flag.StringVar(&o.dir, "dir", "", "work folder with room for five times the image (default: a temporary one)")
	flag.Float64Var(&o.ratio, "changed", 0.01, "share of blocks changed before the fourth phase")
	flag.IntVar(&o.runs, "runs", 1, "how often all is done; the table has medians")
	flag.StringVar(&o.json, "json", "", "file to write the machine and all figures to")
	flag.Parse()
	o.size = *mib << 20
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// measure does everything and prints it.
func measure(ctx context.Context, o options) (err error) {
	if path, err := exec.LookPath(o.millrace); err == nil {
		if o.millrace, err = filepath.Abs(path); err != nil {
			return err
		}
	}
	base, err := os.MkdirTemp(o.dir, "millrace-peers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	pristine, image := filepath.Join(base, "pristine.raw"), filepath.Join(base, "image.raw")
	fmt.Fprintf(os.Stderr, "filling an image of %d MiB with files of %s\n", o.size>>20, o.folder)
	content, err := workload.Tree(ctx, pristine, o.folder, o.size)
	if err != nil {
		return err
	}
	r := report{Machine: machine(ctx, base), Started: time.Now().UTC(), Runs: o.runs, Changed: o.ratio}
	if r.Image, err = factsOf(pristine, o.folder, content); err != nil {
		return err
	}
	if r.Image.Allocated < wanted {
		fmt.Fprintf(os.Stderr, "%s fills only %d MiB: too little for figures to quote\n", o.folder, r.Image.Allocated>>20)
	}
	for n := range o.runs {
		here, err := prepare(ctx, o.millrace, base, image, &r)
		if err != nil {
			return err
		}
		if err := copySparse(ctx, pristine, image); err != nil {
			return err
		}
		if err := once(ctx, o, n, here, image, &r); err != nil {
			return err
		}
	}
	if o.json != "" {
		if err := r.save(o.json); err != nil {
			return err
		}
	}
	return r.print(os.Stdout)
}

// once runs all phases with new repositories. The first tool of a phase changes
// from one to the next, so that none always has the machine as another left it.
func once(ctx context.Context, o options, run int, here []*tool, image string, r *report) error {
	for n, phase := range phases() {
		if phase == "changed" {
			if _, err := workload.Scatter(image, o.ratio, 1); err != nil {
				return err
			}
		}
		allocated, err := diskUsage(image)
		if err != nil {
			return err
		}
		for i := range here {
			t := here[(i+n+run)%len(here)]
			if err := warm(image); err != nil {
				return err
			}
			x, err := t.run(ctx, phase, image)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", t.name, phase, err)
			}
			x.Run, x.MiBs, x.CPUGiB = run, float64(allocated)/(1<<20)/x.Seconds, x.CPU/(float64(allocated)/(1<<30))
			fmt.Fprintf(os.Stderr, "run %d of %d: %-9s %-10s %7.2f s\n", run+1, o.runs, phase, t.name, x.Seconds)
			r.Results = append(r.Results, x)
		}
	}
	return nil
}

// prepare makes new repositories of those tools that are here.
func prepare(ctx context.Context, millrace, base, image string, r *report) ([]*tool, error) {
	var here []*tool
	r.Absent = nil
	for _, t := range tools(millrace, base, image) {
		if _, err := exec.LookPath(t.init[0]); err != nil {
			r.Absent = append(r.Absent, t.name+": "+err.Error())
			continue
		}
		if err := os.RemoveAll(filepath.Dir(t.repo)); err != nil {
			return nil, err
		}
		for _, dir := range []string{t.home, t.target} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return nil, err
			}
		}
		if _, err := t.call(ctx, t.init, base); err != nil {
			return nil, fmt.Errorf("%s, init: %w", t.name, err)
		}
		here = append(here, t)
	}
	if len(here) == 0 {
		return nil, errors.New("none of the tools is installed")
	}
	return here, nil
}

// warm reads the image into the page cache, and has what others wrote written out.
func warm(image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{f}); err != nil {
		return err
	}
	flushAll()
	return nil
}
