//go:build !linux

package images

import "os"

// OpenFile opens an image for reading.
func OpenFile(path string) (*os.File, error) { return os.Open(path) }
