package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
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
		return missing(errors.New("qemu-img (Debian package qemu-utils) is not on this machine"))
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
	if err := m.AwaitAgent(ctx); err != nil {
		return err
	}
	s.say("It runs in QEMU, its processor emulated: what it does is slow, what is done to its disk is not.\nFrom here on it writes files all the time.")
	if _, err := m.Shell(ctx, busy); err != nil {
		return err
	}
	var files int
	for range 2 {
		if files, err = s.backUpRunning(ctx, m, files); err != nil {
			return err
		}
	}
	if _, err := s.millrace(ctx, "points"); err != nil {
		return err
	}
	after, err := written(ctx, m, files+1)
	if err != nil {
		return fmt.Errorf("%w: the guest does not go on: %w", ErrDiffers, err)
	}
	s.say("\nBefore the second backup the guest had synced %d files, by now they are %d: it goes on. Now it is switched off.", files, after)
	m.Stop()
	return s.bootAgain(ctx, files)
}

// busy has the guest write files, with their sums, and sync each; /run/synced is how many
// there are.
const busy = `mkdir -p /srv/work && cd /srv/work && (i=0; while :; do i=$((i+1)); ` +
	`dd if=/dev/urandom of=f$i bs=4k count=8 2>/dev/null; sha256sum f$i >> sums; sync; echo $i > /run/synced; sleep 0.05; done) > /dev/null 2>&1 & true`

// backUpRunning backs the guest up when it has written some files more, and returns how
// many it had synced before.
func (s *story) backUpRunning(ctx context.Context, m *guest.Machine, files int) (int, error) {
	files, err := written(ctx, m, files+5)
	if err != nil {
		return 0, err
	}
	seconds, err := s.millrace(ctx, "backup", "qemu:"+m.QMP)
	s.result.Guest = append(s.result.Guest, Step{Seconds: seconds})
	return files, err
}

// written waits until the guest has synced so many files, and returns how many it has.
func written(ctx context.Context, m *guest.Machine, atLeast int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		said, err := m.Shell(ctx, "cat /run/synced || true") // it may not be there yet, or be empty
		if err != nil {
			return 0, err
		}
		if n, err := strconv.Atoi(strings.TrimSpace(said)); err == nil && n >= atLeast {
			return n, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// bootAgain restores the guest's newest point and boots it: each file that the guest had
// synced before is there.
func (s *story) bootAgain(ctx context.Context, files int) error {
	if _, err := s.millrace(ctx, "restore", "guest@latest", "--to", "guest-restored.raw"); err != nil {
		return err
	}
	began := time.Now()
	m, err := guest.Run(ctx, guest.Disk{Path: s.path("guest-restored.raw"), Format: "raw"})
	if err != nil {
		return fmt.Errorf("%w: the restored guest: %w", ErrDiffers, err)
	}
	defer m.Stop()
	took := since(began)
	said, err := m.Shell(ctx, fmt.Sprintf("cd /srv/work && head -n %d sums | sha256sum -c | grep -c OK", files))
	if err != nil {
		return fmt.Errorf("%w: the restored guest: %w", ErrDiffers, err)
	}
	// Before the answer comes what a shell says when it starts.
	if words := strings.Fields(said); len(words) == 0 || words[len(words)-1] != strconv.Itoa(files) {
		return fmt.Errorf("%w: the restored guest should have %d whole files, and says %q", ErrDiffers, files, said)
	}
	s.say("\nIt has booted in %.1f s, and finds all %d files whole that it had synced before the second backup.", took, files)
	if s.Keep {
		return nil
	}
	return errors.Join(os.Remove(s.path("guest.raw")), os.Remove(s.path("guest-restored.raw")))
}
