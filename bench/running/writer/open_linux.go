package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// open opens a disk so that writes go to it at once.
func open(path string) (*os.File, error) { return os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT, 0) }

// aligned has blocks where a disk takes them from: they begin a page each.
func aligned(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n*block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	for i := range b {
		b[i] = byte(i)
	}
	return b, err
}
