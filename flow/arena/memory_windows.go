package arena

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// newSharedMemory makes a section backed by the page file; its handle is
// inheritable and has no name that another session could open.
func newSharedMemory(size int) (*os.File, error) {
	sa := &windows.SecurityAttributes{InheritHandle: 1}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	h, err := windows.CreateFileMapping(windows.InvalidHandle, sa, windows.PAGE_READWRITE, uint32(size>>32), uint32(size), nil)
	if err != nil {
		return nil, fmt.Errorf("CreateFileMapping: %w", err)
	}
	return os.NewFile(uintptr(h), "arena"), nil
}

func mapArena(f *os.File, size int) (*Arena, error) {
	at, err := windows.MapViewOfFile(windows.Handle(f.Fd()), windows.FILE_MAP_READ|windows.FILE_MAP_WRITE, 0, 0, uintptr(size))
	if err != nil {
		return nil, fmt.Errorf("map the arena: %w", err)
	}
	// The view lies outside Go's heap; reading its address through a pointer
	// variable is the form go vet accepts for that.
	mem := unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), size)
	return &Arena{file: f, mem: mem, unmap: func() error { return windows.UnmapViewOfFile(at) }}, nil
}

// Inherit lets cmd's process have the arena; the number it returns goes into
// the worker's settings.
func (a *Arena) Inherit(cmd *exec.Cmd) uint64 {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	h := syscall.Handle(a.file.Fd())
	cmd.SysProcAttr.AdditionalInheritedHandles = append(cmd.SysProcAttr.AdditionalInheritedHandles, h)
	return uint64(h)
}
