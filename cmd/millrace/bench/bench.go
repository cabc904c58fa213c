// Package bench holds the verbs of millrace bench, which measure this program on
// this machine: [Command] makes them all.
//
// What they measure and how is said by the packages under bench/ that do it; here are
// the flags, and where results go. Each verb prints Markdown on stdout (--json:
// the result as one object), notes on stderr, and with --out writes both and the
// pictures into a folder. They work in a temporary folder that is removed, with
// vaults of their own: the settings of the user's vault are not looked at.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/bench/workload"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

// Command is millrace bench.
func Command(a *session.App) *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure this program on this machine",
		Long: `Measure this program on this machine.

Figures mean something on a machine that does nothing else, and beside other figures of
the same run. Each verb works on an image of real files that it makes (mke2fs and
debugfs, Debian: e2fsprogs) or is given, in a temporary folder that is removed.`,
	}
	c.AddCommand(primitivesCommand(a), peersCommand(a), sweepCommand(a), cuttersCommand(a), growthCommand(a), allCommand(a),
		relayCommand(), relayWorkerCommand(a))
	return c
}

// common are the flags of every verb.
type common struct {
	image, files, kind, dir, out string
	size                         string
	runs                         int
}

func (o *common) add(c *cobra.Command, size string, runs int) {
	f := c.Flags()
	f.StringVar(&o.image, "image", "", "disk image to work on (default: one is made)")
	f.StringVar(&o.size, "size", size, "size of the image that is made; four fifths of one with files are filled")
	f.StringVar(&o.files, "files", "/usr", "folder whose files fill it")
	f.StringVar(&o.kind, "workload", "files", "what fills it: files, random, zero or database")
	f.StringVar(&o.dir, "dir", "", "where to make the work folder, with room for four times the image (default: the one for temporary files)")
	f.StringVar(&o.out, "out", "", "folder for the results, as JSON, Markdown and pictures")
	f.IntVar(&o.runs, "runs", runs, "how often everything is measured; results are medians")
}

// bench is what a verb works with.
type bench struct {
	*session.App
	common
	folder  string // removed at the end
	program string
	bytes   int64 // of an image that is made
}

// with does f in a work folder, with this very program.
func (o common) with(a *session.App, f func(b *bench) error) (err error) {
	b := &bench{App: a, common: o}
	n, err := humanize.ParseBytes(o.size)
	if err != nil || n < 16<<20 || n > 1<<44 {
		return fault.Usage("--size %s: not a number of bytes from 16 MiB to 16 TiB", o.size)
	}
	b.bytes = int64(n) >> 20 << 20
	if o.runs < 1 || o.runs > 1000 {
		return fault.Usage("--runs %d: give 1 to 1000", o.runs)
	}
	if !slices.Contains([]string{"files", "random", "zero", "database"}, o.kind) {
		return fault.Usage("--workload %s: it is files, random, zero or database", o.kind)
	}
	if runtime.GOOS != "linux" {
		return fault.At("measure", runtime.GOOS, errors.New("figures are taken on Linux only"))
	}
	if b.program, err = os.Executable(); err != nil {
		return fault.At("find", "this program", err)
	}
	if b.folder, err = os.MkdirTemp(o.dir, "millrace-bench-"); err != nil {
		return fault.At("make a work folder in", o.dir, err)
	}
	if b.folder, err = filepath.Abs(b.folder); err != nil {
		return fault.At("find", o.dir, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.folder)) }()
	err = f(b)
	if errors.Is(err, workload.ErrTool) {
		return &fault.Fault{Code: "not-found", Op: "measure", Object: o.kind, Remedy: "install the package that the message names", Err: err}
	}
	var known *fault.Fault
	if errors.As(err, &known) {
		return err // it says by itself what is wrong
	}
	return fault.At("measure in", b.folder, err)
}

// disk is the image to work on, made if none was given.
func (b *bench) disk(ctx context.Context) (string, error) {
	if b.image != "" {
		path, err := filepath.Abs(b.image)
		if err != nil {
			return "", err
		}
		_, err = os.Stat(path)
		return path, err
	}
	path := filepath.Join(b.folder, b.kind+".raw")
	b.Note("making an image of %s: %s", session.Size(b.bytes), b.kind)
	switch b.kind {
	case "files":
		_, err := workload.Tree(ctx, path, b.files, b.bytes)
		return path, err
	case "random":
		return path, workload.Random(path, b.bytes, 1)
	case "zero":
		return path, workload.Zero(path, b.bytes)
	}
	return path, workload.Database(path, b.bytes, 1)
}

// result prints what came of it, and saves it under name.
func (b *bench) result(name string, v interface{ Print(io.Writer) error }) error {
	var text bytes.Buffer
	if err := v.Print(&text); err != nil {
		return err
	}
	if b.Settings.JSON {
		b.PrintJSON(v)
	} else if _, err := text.WriteTo(b.Stdout); err != nil {
		return err
	}
	if b.out == "" {
		return nil
	}
	if err := gauge.Save(b.out, name+".json", v); err != nil {
		return err
	}
	text.Reset()
	if err := v.Print(&text); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, name+".md"), text.Bytes(), 0o644)
}

// say is a note as the measuring packages want it.
func (b *bench) say(format string, args ...any) { b.Note("%s", fmt.Sprintf(format, args...)) }
