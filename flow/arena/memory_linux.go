package arena

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// newSharedMemory makes a memfd that can neither shrink nor grow: a worker that
// truncated it would kill all others with SIGBUS.
func newSharedMemory(size int) (*os.File, error) {
	fd, err := unix.MemfdCreate("millrace-arena", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "arena")
	if err := f.Truncate(int64(size)); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal the memory's size: %w", err)
	}
	return f, nil
}

func mapArena(f *os.File, size int) (*Arena, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the arena: %w", err)
	}
	if st.Size() < int64(size) {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrArena, st.Size(), size)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the arena: %w", err)
	}
	return &Arena{file: f, mem: mem, unmap: func() error { return unix.Munmap(mem) }}, nil
}

// Inherit lets cmd's process have the arena; the number it returns goes into
// the worker's settings.
func (a *Arena) Inherit(cmd *exec.Cmd) uint64 {
	cmd.ExtraFiles = append(cmd.ExtraFiles, a.file)
	return uint64(2 + len(cmd.ExtraFiles))
}
