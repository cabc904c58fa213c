//go:build !windows

package part

import "os"

// Sparse does nothing: here unwritten ranges are holes anyway.
func Sparse(*os.File) error { return nil }
