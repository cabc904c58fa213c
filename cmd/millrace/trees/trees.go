// Package trees is the part of the verb restore that writes the tree of an exported
// machine back (--with-checkpoints): [Restore] makes a plan of the point's tree, writes
// it into a folder, records that and prints it. What a tree is, package restore/tree
// says; the forms of disks come from the caller, as everything does that other forms
// of restoring share.
package trees

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/restore/tree"
)

// fileJSON is a file that was written.
type fileJSON struct {
	Disk    id.Disk `json:"disk"`
	File    string  `json:"file"` // its path in the tree
	Path    string  `json:"path"`
	Carried bool    `json:"carried"` // byte for byte; else it is an image made anew of a disk
	Bytes   int64   `json:"bytes"`
	Written int64   `json:"written"` // of them, what is not holes
}

// Restore writes the tree of a point into the folder to.
func Restore(ctx context.Context, a *session.App, v *session.Vault, point events.PointCommitted, to string, o tree.Options) error {
	plan, err := tree.NewPlan(point)
	if errors.Is(err, tree.ErrNone) {
		return &fault.Fault{Code: "no-tree", Op: "restore the tree of point", Object: id.Short(point.Point), Err: err}
	}
	if err != nil {
		return fault.At("restore the tree of point", id.Short(point.Point), err)
	}
	start := a.Now()
	bar := a.Progress("restore " + session.Plain(point.GuestName))
	o.Progress = func(now restore.Progress) { bar.At(now.Done, now.Size) }
	done, err := plan.Write(ctx, v.Vault, to, o)
	bar.Done()
	if err != nil {
		return fault.At("restore tree to", to, err)
	}
	took := a.Now().Sub(start)
	fact := events.PointRestored{Point: point.Point, Guest: point.Guest, To: to, DurationNS: took.Nanoseconds()}
	if abs, err := filepath.Abs(to); err == nil {
		fact.To = abs
	}
	fact.Host, _ = os.Hostname()
	files := []fileJSON{}
	for _, f := range done {
		fact.Disks = append(fact.Disks, f.Disk.Disk)
		fact.Bytes += f.Disk.Size
		files = append(files, fileJSON{f.Disk.Disk, f.Disk.File, f.Path, f.Disk.Carried, f.Disk.Size, f.Written})
	}
	where, err := a.Record(ctx, v, fact)
	if err != nil {
		return err
	}
	for _, d := range plan.Defects {
		a.Note("millrace: %s was not whole when it was backed up: %s", session.Plain(d.File), session.Plain(d.Reason))
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type       string          `json:"type"`
			Point      id.Point        `json:"point"`
			Files      []fileJSON      `json:"files"`
			Bytes      int64           `json:"bytes"`
			Defects    []export.Defect `json:"defects"` // for want of which a checkpoint cannot be reverted to
			Duration   float64         `json:"duration_s"`
			Position   uint64          `json:"position"`
			Checkpoint uint64          `json:"checkpoint"`
		}{"summary", point.Point, files, fact.Bytes, append([]export.Defect{}, plan.Defects...), took.Seconds(), where.Position, where.Checkpoint})
		return nil
	}
	for _, f := range files {
		fmt.Fprintf(a.Stdout, "%s  %s, %s of it data\n", session.Plain(f.Path), session.Size(f.Bytes), session.Size(f.Written))
	}
	a.Note("point %s of %s (%s) restored with its tree, %d files, in %s", id.Short(point.Point), session.Plain(point.GuestName),
		point.Time.Time().Format(time.RFC3339), len(files), took.Round(time.Millisecond))
	return nil
}
