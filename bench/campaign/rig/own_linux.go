package rig

import (
	"os/exec"
	"syscall"
)

// own gives the process and all it starts a group of its own; it dies with us.
func own(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
}
