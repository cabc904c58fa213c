//go:build !linux

package overlay

import "os"

type synced struct{ *os.File }
