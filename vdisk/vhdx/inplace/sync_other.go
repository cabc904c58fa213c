//go:build !linux

package inplace

import "os"

func fdatasync(f *os.File) error { return f.Sync() }
