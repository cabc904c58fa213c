package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

// vault makes the vault.
func (s *story) vault(ctx context.Context) error {
	s.chapter("A vault")
	s.say("$ cd %s", s.folder)
	s.say("$ export MILLRACE_VAULT=vault MILLRACE_PASSWORD_FILE=password MILLRACE_STATE=state")
	if err := os.WriteFile(s.path("password"), []byte("only for the demo\n"), 0o600); err != nil {
		return err
	}
	_, err := s.millrace(ctx, "init")
	return err
}

// backup runs one backup of the guest and finds its point.
func (s *story) backup(ctx context.Context) (Step, error) {
	seconds, err := s.millrace(ctx, "backup", "folder:web")
	if err != nil {
		return Step{}, err
	}
	before := len(s.points)
	if s.points, err = s.listPoints(ctx); err != nil {
		return Step{}, err
	}
	if len(s.points) != before+1 {
		return Step{}, fmt.Errorf("%w: %d points after backup %d", ErrDiffers, len(s.points), before+1)
	}
	return Step{Seconds: seconds, StoredBytes: s.points[before].StoredBytes}, nil
}

func (s *story) fullBackup(ctx context.Context) (err error) {
	s.chapter("The first backup, and what each process of it did")
	if s.result.First, err = s.backup(ctx); err != nil {
		return err
	}
	_, err = s.millrace(ctx, "audit", "show", "latest")
	return err
}

// secondDay changes files in the guest's file system.
func (s *story) secondDay(ctx context.Context) error {
	s.chapter("Day 2: the guest has worked")
	if err := copySparse(ctx, s.path("day2.raw"), s.path("day1.raw")); err != nil {
		return err
	}
	change, err := workload.Edit(ctx, s.path("day2.raw"), s.content, share)
	if err != nil {
		return err
	}
	d, err := compare(ctx, s.path("day2.raw"), s.path("day1.raw"))
	if err != nil {
		return err
	}
	if d.blocks == 0 {
		return fmt.Errorf("%w: the disk of day 2 is that of day 1", ErrDiffers)
	}
	s.result.ChangeBytes = d.blocks * compareBlock
	s.say("%d files got a new first line, %d were removed, %d were copied; with the file\nsystem's own tables that is %s in %d blocks of 4 KiB.",
		change.Edited, change.Removed, change.Added, size(s.result.ChangeBytes), d.blocks)
	return s.putOnHost(ctx, "day2.raw")
}

func (s *story) secondBackup(ctx context.Context) (err error) {
	s.chapter("The second backup stores what changed")
	if s.result.Second, err = s.backup(ctx); err != nil {
		return err
	}
	first, second := s.result.First.StoredBytes, s.result.Second.StoredBytes
	s.say("The first backup stored %s, this one %s for %s of changed blocks.", size(first), size(second), size(s.result.ChangeBytes))
	if second == 0 || second > first/2 {
		return fmt.Errorf("%w: the second backup stored %d bytes, the first %d", ErrDiffers, second, first)
	}
	_, err = s.millrace(ctx, "points")
	return err
}

// restore gets both days back.
func (s *story) restore(ctx context.Context) error {
	s.chapter("Both days come back")
	for n, day := range []string{"day1.raw", "day2.raw"} {
		out := fmt.Sprintf("restored%d.raw", n+1)
		seconds, err := s.millrace(ctx, "restore", s.points[n].ID[:8], "--to", out)
		if err != nil {
			return err
		}
		s.result.Restores = append(s.result.Restores, Step{Seconds: seconds})
		d, err := compare(ctx, s.path(out), s.path(day))
		if err != nil {
			return err
		}
		if d.blocks > 0 {
			return fmt.Errorf("%w: %s and %s are not the same in %d of their blocks of 4 KiB, first at byte %d", ErrDiffers, out, day, d.blocks, d.first)
		}
		s.say("\n%s is %s, byte for byte: %d bytes compared.", out, day, s.Size)
		switch err := workload.Check(ctx, s.path(out)); {
		case errors.Is(err, workload.ErrTool):
			s.say("Its file system was not checked: %v.", err)
		case err != nil && ctx.Err() == nil:
			return fmt.Errorf("%w: %w", ErrDiffers, err)
		case err != nil:
			return err
		default:
			s.say("e2fsck finds its file system sound.")
		}
		if !s.Keep { // room for the next
			if err := os.Remove(s.path(out)); err != nil {
				return err
			}
		}
	}
	return nil
}

// prove reads everything in the vault.
func (s *story) prove(ctx context.Context) error {
	s.chapter("The vault is whole")
	_, err := s.millrace(ctx, "verify", "--read-data")
	return err
}

func (s *story) table() {
	s.chapter("In figures")
	r := s.result
	data := s.dataBytes
	s.say("%-16s %-30s %9s   %s", "", "", "seconds", "of data")
	s.say("%-16s %-30s %9.2f   %s", "first backup", size(r.First.StoredBytes)+" stored", r.First.Seconds, rate(data, r.First.Seconds))
	s.say("%-16s %-30s %9.2f   %s", "second backup", size(r.Second.StoredBytes)+" stored", r.Second.Seconds, rate(data, r.Second.Seconds))
	for n, restore := range r.Restores {
		s.say("%-16s %-30s %9.2f   %s", fmt.Sprintf("restore %d", n+1), size(data)+" written, holes kept", restore.Seconds, rate(data, restore.Seconds))
	}
	s.say("\nTimes are those of the whole command, from its start to its end, with the page\ncache as it was. The disk has %s, of which %s are data.\n", size(r.DiskBytes), size(data))
}

// millrace prints a command line, runs it, and returns how long it took.
func (s *story) millrace(ctx context.Context, args ...string) (float64, error) {
	line := "millrace"
	for _, a := range args {
		line += " " + a
	}
	s.say("\n$ %s", line)
	begin := time.Now()
	c := s.command(ctx, args...)
	c.Stdout, c.Stderr = s.Out, s.Out
	if err := c.Run(); err != nil {
		return 0, commandError(ctx, line, err)
	}
	return since(begin), nil
}
