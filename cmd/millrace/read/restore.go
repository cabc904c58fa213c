package read

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/cmd/millrace/trees"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/restore/tree"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

type restoreOptions struct {
	to     string
	disk   string
	format string
	tree   bool
	force  bool
}

// Restore is the verb restore.
func Restore(app *session.App) *cobra.Command {
	a := verb{app}
	var o restoreOptions
	c := &cobra.Command{
		Use:   "restore POINT --to PATH",
		Short: "Restore disks of a point to disk files",
		Long: `Restore disks of a point to files: raw, or as images of Hyper-V or QEMU.

Holes stay holes. vhdx, vhd and qcow2 take the room that their data need, vhdx-fixed
and vhd-fixed have a place for every byte. A disk keeps its size to the byte; one
that is no multiple of 512 bytes fits raw only, one over 2040 GiB no vhd.

PATH is the file to make if the point has one disk or --disk chooses one, and PATH
is not a folder; else it is a folder, made if it is missing, and each disk becomes
NAME.raw (.vhdx, .vhd, .qcow2) in it. A file appears under its name only when it is
whole and durable.

With --with-checkpoints the whole tree of a machine that Hyper-V exported is written
into the folder PATH as it was: configurations, saved states, every image with its
checkpoints. The folder is to be empty, or --force given.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case o.to == "":
				return fault.Usage("restore needs --to PATH")
			case formOf(o.format) == nil:
				return fault.Usage("--format %s: there is %s", o.format, formNames())
			case o.tree && (o.disk != "" || c.Flags().Changed("format")):
				return fault.Usage("--with-checkpoints restores every file as it was: neither --disk nor --format goes with it")
			}
			return a.restore(c.Context(), args[0], o)
		},
	}
	c.Flags().StringVar(&o.to, "to", "", "file or folder to restore to")
	c.Flags().StringVar(&o.disk, "disk", "", "only this disk: its number or name as show prints it")
	c.Flags().StringVar(&o.format, "format", "raw", "form of the disks: "+formNames())
	c.Flags().BoolVar(&o.tree, "with-checkpoints", false, "restore the tree of an exported machine, with its checkpoints, into a folder")
	c.Flags().BoolVar(&o.force, "force", false, "replace files that are there")
	return c
}

// restoredDisk is one line of what a restore did.
type restoredDisk struct {
	Disk    id.Disk `json:"disk"`
	Key     string  `json:"key"`
	Path    string  `json:"path"`
	Bytes   int64   `json:"bytes"`   // size of the disk
	Written int64   `json:"written"` // of them, what is not holes
}

func (a verb) restore(ctx context.Context, name string, o restoreOptions) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	found, err := v.FindPoint(ctx, name, session.Past{})
	if err != nil {
		return err
	}
	release, err := a.Hold(ctx, v, "restore", []id.Point{found.Point}, found.DiskBytes)
	if err != nil {
		return fault.At("restore point", id.Short(found.Point), err)
	}
	defer release()
	if found, err = v.FindPoint(ctx, found.Point.String(), session.Past{}); err != nil {
		return err // it was forgotten meanwhile
	}
	point := found.PointCommitted
	if o.tree {
		return trees.Restore(ctx, a.App, v, point, o.to, tree.Options{Like: like(a.Now()), Force: o.force})
	}
	disks, err := chooseDisks(point, o.disk)
	if err != nil {
		return fault.At("choose disk of point", id.Short(point.Point), err)
	}
	form := formOf(o.format)
	paths, err := targets(disks, o.to, form.ext)
	if err != nil {
		return fault.At("restore to", o.to, err)
	}
	start := a.Now()
	fact := events.PointRestored{Point: point.Point, Guest: point.Guest, To: absolute(o.to)}
	fact.Host, _ = os.Hostname()
	var done []restoredDisk
	for n, d := range disks {
		r, err := a.restoreDisk(ctx, v, d, paths[n], restore.RawOptions{Force: o.force, Image: form.image(a.Now())})
		if err != nil {
			return err
		}
		fact.Disks = append(fact.Disks, d.Disk)
		fact.Bytes += d.Size
		done = append(done, r)
	}
	took := a.Now().Sub(start)
	fact.DurationNS = took.Nanoseconds()
	where, err := a.Record(ctx, v, fact)
	if err != nil {
		return err
	}
	a.printRestored(point, done, took, where)
	return nil
}

func (a verb) restoreDisk(ctx context.Context, v *session.Vault, d events.PointDisk, path string, o restore.RawOptions) (restoredDisk, error) {
	p := a.Progress("restore " + session.Plain(d.Key))
	defer p.Done()
	r := restoredDisk{Disk: d.Disk, Key: d.Key, Path: path, Bytes: d.Size}
	o.Progress = func(now restore.Progress) {
		r.Written = now.Written
		p.At(now.Done, now.Size)
	}
	err := restore.Raw(ctx, v.Vault, d, path, o)
	return r, fault.At("restore disk to", path, err)
}

// chooseDisks returns the disks that --disk asks for, all of them if it is empty:
// by number as show counts them, or by name.
func chooseDisks(point events.PointCommitted, which string) ([]events.PointDisk, error) {
	disks := point.MachineDisks()
	if which == "" {
		return disks, nil
	}
	for n, d := range disks {
		if which == d.Key || which == strconv.Itoa(n) || which == d.Disk.String() {
			return disks[n : n+1], nil
		}
	}
	var keys []string
	for n, d := range disks {
		keys = append(keys, fmt.Sprintf("%d (%s)", n, d.Key))
	}
	return nil, fmt.Errorf("disk %q: %w; there is %s", which, fs.ErrNotExist, strings.Join(keys, ", "))
}

// targets names the file for each disk. The folder is made if there is to be one.
// Their names end in ext.
func targets(disks []events.PointDisk, to, ext string) ([]string, error) {
	info, err := os.Stat(to)
	isFolder := err == nil && info.IsDir() || strings.HasSuffix(to, "/") || strings.HasSuffix(to, string(filepath.Separator))
	if len(disks) == 1 && !isFolder {
		return []string{to}, nil
	}
	if err == nil && !info.IsDir() {
		return nil, errors.New("several disks need a folder, and this is a file")
	}
	// Made durable before a file in it is announced.
	if err := dir.MakeAll(dir.OS(), to); err != nil {
		return nil, err
	}
	used := map[string]bool{}
	var paths []string
	for n, d := range disks {
		name := fileName(d.Key, ext)
		// Any name may be another disk's own, the numbered ones too: two disks in one file
		// would be one disk.
		for k := n; name == "" || used[strings.ToLower(name)]; k++ {
			name = fmt.Sprintf("disk-%d%s", k, ext)
		}
		used[strings.ToLower(name)] = true
		paths = append(paths, filepath.Join(to, name))
	}
	return paths, nil
}

// fileName makes a file name of a disk's key, which came from a guest or out of a
// vault and may be anything: only the last element, without what any system
// takes for more than a letter, ending in ext.
func fileName(key, ext string) string {
	key = key[strings.LastIndexAny(key, `/\:`)+1:]
	key = strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`<>"|?*`, r) || r == 0x7f {
			return '_'
		}
		return r
	}, key)
	old := strings.ToLower(filepath.Ext(key))
	if slices.Contains([]string{".vhdx", ".avhdx", ".vhd", ".avhd", ".raw", ".img", ".qcow2"}, old) {
		key = key[:len(key)-len(old)]
	}
	key = strings.Trim(key, ". ")
	if key == "" || len(key) > 200 || export.CheckPath(key+ext) != nil {
		return ""
	}
	return key + ext
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (a verb) printRestored(point events.PointCommitted, disks []restoredDisk, took time.Duration, where session.Recorded) {
	if a.Settings.JSON {
		var bytes int64
		for _, d := range disks {
			bytes += d.Bytes
		}
		a.PrintJSON(struct {
			Type       string         `json:"type"`
			Point      id.Point       `json:"point"`
			Disks      []restoredDisk `json:"disks"`
			Bytes      int64          `json:"bytes"`
			Duration   float64        `json:"duration_s"`
			Position   uint64         `json:"position"`
			Checkpoint uint64         `json:"checkpoint"`
		}{"summary", point.Point, disks, bytes, took.Seconds(), where.Position, where.Checkpoint})
		return
	}
	for _, d := range disks {
		fmt.Fprintf(a.Stdout, "%s  %s, %s of it data\n", session.Plain(d.Path), session.Size(d.Bytes), session.Size(d.Written))
	}
	a.Note("point %s of %s (%s) restored in %s", id.Short(point.Point), session.Plain(point.GuestName), point.Time.Time().Format(time.RFC3339), took.Round(time.Millisecond))
}
