package guest

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// ErrMissing is wrapped when this machine cannot build or boot a guest; the
// message says what to install.
var ErrMissing = errors.New("not on this machine")

// ErrNotReady is wrapped by Boot when the guest ended, or the context did,
// before it said GUEST-READY. The message holds the last lines of its console.
var ErrNotReady = errors.New("guest did not get ready")

//go:embed build.sh
var recipe string

// needs lists what the recipe uses, with the Debian package that has it.
var needs = [][2]string{
	{"bash", "bash"}, {"apt-get", "apt"}, {"dpkg-deb", "dpkg"}, {"cpio", "cpio"}, {"mke2fs", "e2fsprogs"},
	{"mformat", "mtools"}, {"mcopy", "mtools"}, {"syslinux", "syslinux"}, {"unxz", "xz-utils"},
	{"/bin/busybox", "busybox-static"}, {"/usr/lib/syslinux/mbr/mbr.bin", "syslinux-common"},
}

// Build makes a sparse raw disk of size bytes (whole MiB, at least 64 MiB) at
// out, with the contents of the folder payload in the guest's /srv ("" for
// none). It takes about five seconds, and once a download of 30 MB.
func Build(ctx context.Context, out string, size int64, payload string) error {
	return build(ctx, out, size, payload)
}

// BuildWithAgent is Build of a guest that runs QEMU's guest agent too. It takes one
// download more, once.
func BuildWithAgent(ctx context.Context, out string, size int64, payload string) error {
	return build(ctx, out, size, payload, "agent")
}

func build(ctx context.Context, out string, size int64, payload string, more ...string) error {
	if size < 64<<20 || size%(1<<20) != 0 {
		return fmt.Errorf("build guest %s: size %d is not a multiple of 1 MiB from 64 MiB up", out, size)
	}
	for _, n := range needs {
		if err := require(n[0], n[1]); err != nil {
			return fmt.Errorf("build guest: %w", err)
		}
	}
	c := exec.CommandContext(ctx, "bash", append([]string{"-s", "--", out, strconv.FormatInt(size>>20, 10), payload}, more...)...)
	c.Stdin = strings.NewReader(recipe)
	c.WaitDelay = 5 * time.Second
	said, err := c.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return fmt.Errorf("build guest: a package is %w: %s", ErrMissing, tail(said))
	}
	if err != nil {
		return fmt.Errorf("build guest %s: %w: %s", out, err, tail(said))
	}
	return nil
}

// require checks that a program (or, for an absolute name, a file) is there.
func require(name, pkg string) error {
	if strings.HasPrefix(name, "/") {
		if _, err := os.Stat(name); err == nil {
			return nil
		}
	} else if _, err := exec.LookPath(name); err == nil {
		return nil
	} else if _, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		return nil
	}
	return fmt.Errorf("%s (Debian package %s) is %w", name, pkg, ErrMissing)
}

// Ready is what a guest says once it has started.
type Ready struct {
	Boots int    // how often this disk has booted, this time included
	Srv   string // SHA-256, in hex, over the sums and names of all files in /srv
}

// Boot starts the image with QEMU (format is QEMU's word for it: raw, vhdx,
// vpc, qcow2), waits for the guest, turns it off and returns what it said. The
// context bounds the wait; 5 to 10 seconds are usual, 60 is safe.
func Boot(ctx context.Context, image, format string) (Ready, error) {
	if err := require(qemu, "qemu-system-x86"); err != nil {
		return Ready{}, fmt.Errorf("boot %s: %w", image, err)
	}
	// Software emulation on purpose: it is the same on every machine, and a
	// nested KVM does not run the boot loader's 16-bit code everywhere.
	c := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-m", "256", "-display", "none", "-monitor", "none",
		"-serial", "stdio", "-nic", "none", "-no-reboot",
		"-drive", "if=virtio,format="+format+",file="+strings.ReplaceAll(image, ",", ",,"))
	c.WaitDelay = 5 * time.Second
	var complaint bytes.Buffer
	c.Stderr = &complaint
	keyboard, err := c.StdinPipe()
	if err != nil {
		return Ready{}, fmt.Errorf("boot %s: %w", image, err)
	}
	console, err := c.StdoutPipe()
	if err != nil {
		return Ready{}, fmt.Errorf("boot %s: %w", image, err)
	}
	if err := c.Start(); err != nil {
		return Ready{}, fmt.Errorf("boot %s: %w", image, err)
	}
	ready, said, waitErr := await(console)
	if waitErr == nil {
		// Off by itself, so that QEMU closes the image in order; what the guest
		// prints meanwhile is read, or it would block on a full pipe.
		_, _ = io.WriteString(keyboard, "poweroff -f\n")
		_, _ = io.Copy(io.Discard, console)
	}
	err = c.Wait()
	switch {
	case waitErr != nil:
		return Ready{}, fmt.Errorf("boot %s: %w: %w: %s%s", image, ErrNotReady, errors.Join(waitErr, ctx.Err()), tail(said), tail(complaint.Bytes()))
	case err != nil:
		return ready, fmt.Errorf("turn off guest %s: %w: %s", image, err, tail(complaint.Bytes()))
	}
	return ready, nil
}

// await reads the console until the guest is ready; it returns what was read.
func await(console io.Reader) (Ready, []byte, error) {
	var said []byte
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		said = append(append(said, lines.Bytes()...), '\n')
		if r, found, err := readiness(lines.Text()); found {
			return r, said, err
		}
	}
	return Ready{}, said, errors.Join(lines.Err(), io.ErrUnexpectedEOF)
}

// readiness reads the line in which a guest says that it is ready.
func readiness(line string) (r Ready, found bool, err error) {
	_, line, found = strings.Cut(line, "GUEST-READY ")
	if !found {
		return r, false, nil
	}
	if _, err := fmt.Sscanf(line, "boots=%d srv=%s", &r.Boots, &r.Srv); err != nil {
		return Ready{}, true, fmt.Errorf("read %q: %w", line, err)
	}
	return r, true, nil
}

// tail keeps the last few lines of an output.
func tail(said []byte) string {
	said = bytes.TrimSpace(said)
	return string(said[max(0, len(said)-600):])
}
