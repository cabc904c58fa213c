package queues

import "syscall"

// hold stops a process until it is let go.
func hold(pid int) (letGo func()) {
	_ = syscall.Kill(pid, syscall.SIGSTOP) // else it has ended
	return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
}
