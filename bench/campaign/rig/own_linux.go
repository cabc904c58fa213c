package rig

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// own gives the process and all it starts a group of its own; it dies with us.
func own(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error {
		err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone // it was faster
		}
		return err
	}
}
