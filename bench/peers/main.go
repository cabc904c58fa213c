// Command peers runs Millrace, restic and borg over the same disk image in the
// same minutes, and prints what each took.
//
// Five phases, each tool in turn within a phase: a first backup of an image
// filled with real files, a second of the same bytes, one after 1 % of all 4 KiB
// blocks were overwritten, and a restore of the last, which is compared with the
// image byte by byte. Before every run the image is read once, so that all find
// it in the page cache, and its times are set anew, so that none may skip it
// because its name looks unchanged: what is compared is work on bytes.
//
// Wall time and CPU time are of the tool's process and all it waited for.
// Stored bytes are what the vault or repository grew by. Millrace runs with its
// defaults (XAES-256-GCM, codec auto), restic with its own (AES-CTR, zstd), borg
// with repokey-blake2 and lz4. A tool that is not installed is left out and said
// to be.
//
// It is a measurement, not a test: figures mean something beside each other on
// one idle machine, and nothing alone.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
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
	json     bool
}

func main() {
	var o options
	mib := flag.Int64("size", 2048, "size of the image in MiB")
	flag.StringVar(&o.millrace, "millrace", "millrace", "the program to measure")
	flag.StringVar(&o.folder, "folder", "/usr", "folder whose files fill the image")
	flag.StringVar(&o.dir, "dir", "", "work folder with room for four times the image (default: a temporary one)")
	flag.Float64Var(&o.ratio, "changed", 0.01, "share of blocks changed before the third backup")
	flag.BoolVar(&o.json, "json", false, "print a JSON object for each run instead of a table")
	flag.Parse()
	o.size = *mib << 20
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := measure(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// result is what one tool took for one phase.
type result struct {
	Tool    string  `json:"tool"`
	Phase   string  `json:"phase"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_s"`
	MiBs    float64 `json:"mib_per_s"`
	CPUGiB  float64 `json:"cpu_s_per_gib"`
	Stored  int64   `json:"stored_bytes"` // what the repository grew by
}

func measure(ctx context.Context, o options, out io.Writer) error {
	base, err := os.MkdirTemp(o.dir, "millrace-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	image := filepath.Join(base, "image.raw")
	content, err := workload.Tree(ctx, image, o.folder, o.size)
	if err != nil {
		return err
	}
	if !o.json {
		fmt.Fprintf(out, "image of %d MiB with %d files of %s, %d MiB of content\n\n%-9s %-10s %8s %8s %8s %10s %12s\n", o.size>>20, content.Files, o.folder,
			content.Bytes>>20, "phase", "tool", "s", "CPU s", "MiB/s", "CPU s/GiB", "stored MiB")
	}
	tools, err := prepare(ctx, o, base, image, out)
	if err != nil {
		return err
	}
	for _, phase := range []string{"full", "unchanged", "changed", "restore"} {
		if phase == "changed" {
			if _, err := workload.Scatter(image, o.ratio, 1); err != nil {
				return err
			}
		}
		for _, t := range tools {
			if err := warm(image); err != nil {
				return err
			}
			r, err := t.run(ctx, phase, image)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", t.name, phase, err)
			}
			r.MiBs = float64(o.size) / (1 << 20) / r.Seconds
			r.CPUGiB = r.CPU / (float64(o.size) / (1 << 30))
			if err := print(out, r, o.json); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare makes the repositories of those tools that are here.
func prepare(ctx context.Context, o options, base, image string, out io.Writer) ([]*tool, error) {
	var here []*tool
	for _, t := range tools(o.millrace, base, image) {
		if _, err := exec.LookPath(t.init[0]); err != nil {
			fmt.Fprintf(out, "%s is left out: %v\n", t.name, err)
			continue
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
	return here, nil
}

// warm reads the image into the page cache and gives it new times.
func warm(image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{f}); err != nil {
		return err
	}
	now := time.Now()
	return os.Chtimes(image, now, now)
}

func print(out io.Writer, r result, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := fmt.Fprintf(out, "%-9s %-10s %8.2f %8.2f %8.0f %10.2f %12.1f\n", r.Phase, r.Tool, r.Seconds, r.CPU, r.MiBs, r.CPUGiB, float64(r.Stored)/(1<<20))
	return err
}
