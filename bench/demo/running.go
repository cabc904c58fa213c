package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/guest"
)

// running boots a guest in QEMU and backs it up while it works: whole, and then what it
// has changed; and boots what was restored. Where something for that is missing it says
// what, and the story goes on.
func (s *story) running(ctx context.Context) error {
	if !s.Running {
		return nil
	}
	s.chapter("A guest that runs")
	missing := func(err error) error {
		s.say("Left out: %v.", err)
		return nil
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return missing(err)
	}
	s.say("A small Linux with QEMU's guest agent is put together (once, its kernel is fetched with apt-get).")
	err := guest.BuildWithAgent(ctx, s.path("guest.raw"), 192<<20, "")
	if errors.Is(err, guest.ErrMissing) {
		return missing(err)
	}
	if err == nil {
		err = exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", s.path("guest.raw"), s.path("guest.qcow2")).Run()
	}
	if err != nil {
		return err
	}
	m, err := guest.Run(ctx, guest.Disk{Path: s.path("guest.qcow2"), Format: "qcow2"})
	if errors.Is(err, guest.ErrMissing) {
		return missing(err)
	}
	if err != nil {
		return err
	}
	defer m.Stop()
	s.say("It runs in QEMU, its processor emulated: what it does is slow, what is done to its disk is not.")
	source := "qemu:" + m.QMP
	for n, command := range []string{"echo first > /srv/story; sync", "echo second >> /srv/story; sync"} {
		if _, err := m.Shell(ctx, command); err != nil {
			return err
		}
		seconds, err := s.millrace(ctx, "backup", source)
		if err != nil {
			return err
		}
		s.result.Guest = append(s.result.Guest, Step{Seconds: seconds})
		if n == 1 {
			if _, err := s.millrace(ctx, "points"); err != nil {
				return err
			}
		}
	}
	if _, err := m.Shell(ctx, "echo after the backup >> /srv/story; sync"); err != nil {
		return fmt.Errorf("%w: the guest does not go on: %w", ErrDiffers, err)
	}
	m.Stop()
	return s.bootAgain(ctx)
}

// bootAgain restores the guest's newest point and boots it.
func (s *story) bootAgain(ctx context.Context) error {
	if _, err := s.millrace(ctx, "restore", "guest@latest", "--to", "guest-restored.raw"); err != nil {
		return err
	}
	began := time.Now()
	m, err := guest.Run(ctx, guest.Disk{Path: s.path("guest-restored.raw"), Format: "raw"})
	if err != nil {
		return fmt.Errorf("%w: the restored guest: %w", ErrDiffers, err)
	}
	defer m.Stop()
	said, err := m.Shell(ctx, "cat /srv/story")
	if err != nil {
		return err
	}
	lines := strings.Fields(said)
	if len(lines) < 2 || lines[len(lines)-2] != "first" || lines[len(lines)-1] != "second" {
		return fmt.Errorf("%w: the restored guest has %q in its story", ErrDiffers, said)
	}
	s.say("\nIt has booted in %.1f s, and has what it had written before the second backup, and not what came after.", since(began))
	if s.Keep {
		return nil
	}
	return errors.Join(os.Remove(s.path("guest.raw")), os.Remove(s.path("guest-restored.raw")))
}
