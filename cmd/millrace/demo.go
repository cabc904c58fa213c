package main

import (
	"context"
	"errors"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/bench/demo"
	"github.com/millrace-backup/millrace/bench/workload"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

func (a *app) demoCommand() *cobra.Command {
	var o demo.Options
	var size string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole story on this machine in a temporary folder",
		Long: `Show the whole story on this machine in a temporary folder: a VHDX with a file system
of real files is backed up, changed, backed up again, and both points are restored and
compared byte for byte. It needs no root, mke2fs and debugfs (Debian: e2fsprogs), and
room for about four times --size. Where QEMU is installed, and what it takes to make a small
Linux, one is booted and backed up while it runs. It exits 4 if anything differs.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			bytes, err := humanize.ParseBytes(size)
			if err != nil || bytes < demo.MinSize || bytes > 1<<40 {
				return fault.Usage("--size %s: not a number of bytes from 32 MiB to 1 TiB", size)
			}
			o.Size = int64(bytes) >> 20 << 20
			return a.demo(c.Context(), o)
		},
	}
	c.Flags().StringVar(&size, "size", "512MiB", "size of the disk, 32MiB at least")
	c.Flags().StringVar(&o.Files, "files", "/usr", "folder to take the files from")
	c.Flags().StringVar(&o.Parent, "dir", "", "where to make the folder (default: the one for temporary files)")
	c.Flags().BoolVar(&o.Running, "running", true, "back up a guest that runs in QEMU too, where there is all that takes")
	c.Flags().BoolVar(&o.Keep, "keep", false, "leave the folder, with vault and disks")
	return c
}

// demo runs this very program for each step of the story.
func (a *app) demo(ctx context.Context, o demo.Options) (err error) {
	if o.Program, err = os.Executable(); err != nil {
		return fault.At("find", "this program", err)
	}
	if o.Out = a.Stdout; a.Settings.JSON {
		o.Out = a.Stderr
	}
	r, err := demo.Run(ctx, o)
	if errors.Is(err, workload.ErrTool) {
		err = &fault.Fault{Code: "not-found", Remedy: "install the package that the message names", Err: err}
	}
	if errors.Is(err, demo.ErrDiffers) {
		err = &fault.Fault{Code: "damaged", Remedy: "report it, with what was printed; the folder is kept", Err: err}
	}
	if err == nil && a.Settings.JSON {
		a.PrintJSON(struct {
			Type string `json:"type"`
			demo.Result
		}{"summary", r})
	}
	return fault.At("run demo in", r.Folder, err)
}
