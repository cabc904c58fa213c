package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/millrace-backup/millrace/bench/workload"
)

// ErrDiffers is wrapped when something that should be equal is not; the text
// says what and where.
var ErrDiffers = errors.New("the demo found a difference")

// Options are what a user may choose.
type Options struct {
	Program string    // the millrace binary
	Files   string    // folder that the files are taken from
	Parent  string    // where the folder of the demo is made; "" for the usual one
	Size    int64     // of the disk, in whole MiB, 32 at least
	Keep    bool      // leave the folder
	Running bool      // back up a guest that runs in QEMU too, if there is all that takes
	Out     io.Writer // the story, and what the program prints
}

// Result is the story in figures.
type Result struct {
	Folder      string `json:"folder"` // gone, unless it was kept
	Files       int    `json:"files"`
	FileBytes   int64  `json:"file_bytes"`
	DiskBytes   int64  `json:"disk_bytes"`
	ImageBytes  int64  `json:"image_bytes"`   // length of the VHDX file
	ChangeBytes int64  `json:"changed_bytes"` // between the two days, in blocks of 4 KiB
	First       Step   `json:"first_backup"`
	Second      Step   `json:"second_backup"`
	Restores    []Step `json:"restores"`
	Guest       []Step `json:"guest_backups,omitempty"` // of one that runs
}

// Step is one run of the program.
type Step struct {
	StoredBytes int64   `json:"stored_bytes,omitempty"`
	Seconds     float64 `json:"duration_s"`
}

// MinSize of the disk: it leaves room for a file system with some files.
const MinSize = 32 << 20

// share of the files that the second day changes.
const share = 0.02

// Run tells the story. It ends with an error at the first step that fails; a
// folder in which something differed is kept as evidence.
func Run(ctx context.Context, o Options) (r Result, err error) {
	if o.Size < MinSize || o.Size%(1<<20) != 0 {
		return Result{}, fmt.Errorf("make a disk of %d bytes: a whole number of MiB is needed, %d at least", o.Size, MinSize>>20)
	}
	if o.Program, err = filepath.Abs(o.Program); err != nil {
		return Result{}, err
	}
	if o.Files, err = filepath.Abs(o.Files); err != nil {
		return Result{}, err
	}
	folder, err := os.MkdirTemp(o.Parent, "millrace-demo-")
	if err != nil {
		return Result{}, fmt.Errorf("make the folder of the demo: %w", err)
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return Result{}, err
	}
	s := &story{Options: o, folder: folder, result: Result{Folder: folder, DiskBytes: o.Size}}
	err = s.tell(ctx)
	switch {
	case o.Keep || errors.Is(err, ErrDiffers):
		s.say("The folder is kept: %s", folder)
	default:
		if removeErr := os.RemoveAll(folder); err == nil && removeErr != nil {
			err = fmt.Errorf("remove the folder of the demo: %w", removeErr)
		}
	}
	if err == nil {
		s.say("demo: everything equal")
	}
	return s.result, err
}

// story is a demo under way.
type story struct {
	Options
	folder  string
	content workload.Content // of the disk on day 1
	result  Result
	points  []point
	// dataBytes of the disk are not holes.
	dataBytes int64
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

func (s *story) chapter(title string) { s.say("\n=== %s", title) }

func (s *story) path(name string) string { return filepath.Join(s.folder, name) }

func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{s.firstDay, s.vault, s.fullBackup, s.secondDay, s.secondBackup, s.restore, s.running, s.prove} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	s.table()
	return nil
}

// firstDay makes the disk.
func (s *story) firstDay(ctx context.Context) error {
	s.say("Millrace backs up a disk on this machine and gets it back. All of it happens in\n%s.", s.folder)
	s.chapter("Day 1: a guest's disk with real files")
	content, err := workload.Tree(ctx, s.path("day1.raw"), s.Files, s.Size)
	if err != nil {
		return err
	}
	s.result.Files, s.result.FileBytes = content.Files, content.Bytes
	s.say("%d files from %s, %s, in an ext4 file system of %s.", content.Files, s.Files, size(content.Bytes), size(s.Size))
	if err := s.putOnHost(ctx, "day1.raw"); err != nil {
		return err
	}
	s.say("The guest is called web; its disk is web/disk.vhdx, a dynamic VHDX of %s.", size(s.result.ImageBytes))
	s.content = content
	return nil
}

func size(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// rate is MiB per second as people read it.
func rate(n int64, seconds float64) string {
	return fmt.Sprintf("%.0f MiB/s", float64(n)/(1<<20)/max(seconds, 0.001))
}

func since(t time.Time) float64 { return time.Since(t).Seconds() }
