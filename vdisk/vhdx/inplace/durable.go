package inplace

import "os"

// Durable is a file of the system whose Sync is fdatasync, where there is one.
type Durable struct{ *os.File }

// Sync makes the file's bytes and length durable.
func (d Durable) Sync() error { return fdatasync(d.File) }
