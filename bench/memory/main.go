package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

// bench is one measurement.
type bench struct {
	millrace string
	folder   string
	image    image
	extra    []string // for backup
	limit    int64
	failed   bool
}

func run(ctx context.Context) error {
	millrace := flag.String("millrace", "./millrace", "program to measure")
	virtual := flag.String("virtual", "64GiB", "size of the disk")
	data := flag.String("data", "", "bytes of content at its start")
	every := flag.String("every", "", "or: a block of 4 KiB in every so many bytes")
	folder := flag.String("folder", "", "where to work (default: a temporary folder)")
	limit := flag.String("limit", "512MiB", "fail above")
	keep := flag.Bool("keep", false, "keep what was made")
	chunks := flag.Int("chunks", 0, "measure the chunk index instead, with so many chunks")
	processes := flag.Int("processes", 10, "... and so many processes that look up in it at once")
	asking := flag.String("ask", "", "be one of these processes, over this folder")
	flag.Parse()
	if *asking != "" {
		return ask(*asking, *chunks)
	}
	b := bench{millrace: *millrace, extra: flag.Args()}
	for _, s := range []struct {
		text string
		into *int64
	}{{*virtual, &b.image.size}, {*data, &b.image.data}, {*every, &b.image.every}, {*limit, &b.limit}} {
		if s.text == "" {
			continue
		}
		n, err := humanize.ParseBytes(s.text)
		if err != nil || n > 1<<50 {
			return fmt.Errorf("size %q: %w", s.text, errors.Join(err, errors.New("give a number like 64GiB")))
		}
		*s.into = int64(n)
	}
	var err error
	if b.folder, err = os.MkdirTemp(*folder, "millrace-memory-"); err != nil {
		return err
	}
	if !*keep {
		defer os.RemoveAll(b.folder)
	}
	if *chunks > 0 {
		return measureIndex(ctx, b.folder, *chunks, *processes)
	}
	return b.all(ctx)
}

func (b *bench) all(ctx context.Context) error {
	b.image.path = filepath.Join(b.folder, "disk.raw")
	if err := b.image.make(); err != nil {
		return err
	}
	password := filepath.Join(b.folder, "password")
	if err := os.WriteFile(password, []byte("memory\n"), 0o600); err != nil {
		return err
	}
	vault := filepath.Join(b.folder, "vault")
	common := []string{"--vault", vault, "--password-file", password, "--state", filepath.Join(b.folder, "state")}
	backup := append([]string{"backup", b.image.path}, b.extra...)
	restored := filepath.Join(b.folder, "restored.raw")
	fmt.Printf("%-16s %8s %10s %10s   %s\n", "command", "s", "MiB peak", "MiB shared", "MiB anonymous at the peak")
	for _, step := range []struct {
		name string
		args []string
	}{
		{"init", []string{"init"}}, {"first backup", backup}, {"second backup", backup},
		{"restore", []string{"restore", "latest", "--to", restored}}, {"verify", []string{"verify"}},
	} {
		if step.name == "second backup" {
			if err := b.image.change(); err != nil {
				return err
			}
		}
		if err := b.measure(ctx, step.name, append(step.args, common...)); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if err := b.image.compare(restored); err != nil {
		return err
	}
	fmt.Println("the restored disk is equal")
	if b.failed {
		return fmt.Errorf("more than %d MiB", b.limit>>20)
	}
	return nil
}

// measure runs the program and prints the peak of its memory.
func (b *bench) measure(ctx context.Context, name string, args []string) error {
	cmd := exec.CommandContext(ctx, b.millrace, args...)
	log, err := os.Create(filepath.Join(b.folder, strings.ReplaceAll(name, " ", "-")+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var peak sample
	each := map[string]int64{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			b.print(name, time.Since(began), peak, each)
			if err != nil {
				text, _ := os.ReadFile(log.Name())
				return fmt.Errorf("%w\n%s", err, text)
			}
			return nil
		case <-tick.C:
			s := look(cmd.Process.Pid)
			if s.total() > peak.total() {
				peak = s
			}
			for who, n := range s.anonymous {
				each[who] = max(each[who], n)
			}
		}
	}
}

func (b *bench) print(name string, took time.Duration, peak sample, each map[string]int64) {
	var parts []string
	for who, n := range peak.anonymous {
		parts = append(parts, fmt.Sprintf("%s %d", who, n>>20))
	}
	slices.Sort(parts)
	fmt.Printf("%-16s %8.1f %10d %10d   %s\n", name, took.Seconds(), peak.total()>>20, peak.shared>>20, strings.Join(parts, ", "))
	parts = parts[:0]
	for who, n := range each {
		parts = append(parts, fmt.Sprintf("%s %d", who, n>>20))
	}
	slices.Sort(parts)
	fmt.Printf("%-16s %8s %10s %10s   each at its own: %s\n", "", "", "", "", strings.Join(parts, ", "))
	b.failed = b.failed || peak.total() > b.limit
}

// sample is the memory of a process and all below it, in bytes.
type sample struct {
	anonymous map[string]int64 // by stage and pid
	shared    int64
}

func (s sample) total() (n int64) {
	for _, k := range s.anonymous {
		n += k
	}
	return n + s.shared
}
