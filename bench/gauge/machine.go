package gauge

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// Machine is what figures depend on.
type Machine struct {
	System     string    `json:"system"`
	Kernel     string    `json:"kernel,omitempty"`
	Processor  string    `json:"processor,omitempty"`
	Processors int       `json:"processors"`
	Memory     int64     `json:"memory_bytes,omitempty"`
	FileSystem string    `json:"file_system,omitempty"` // of the work folder
	Go         string    `json:"go"`
	Load       float64   `json:"load_at_the_start"` // runnable processes in the last minute
	Began      time.Time `json:"began"`
}

// Here is this machine, with the file system of dir.
func Here(dir string) Machine {
	m := Machine{System: runtime.GOOS + "/" + runtime.GOARCH, Processors: runtime.NumCPU(), Go: runtime.Version(), Began: time.Now().UTC().Truncate(time.Second)}
	machine(&m, dir)
	return m
}

// Idle reports whether the machine did little else when the measurement began.
func (m Machine) Idle() bool { return m.Load < 0.5*float64(m.Processors) }

// String is the machine in a line.
func (m Machine) String() string {
	busy := ""
	if !m.Idle() {
		busy = "; the machine was busy, so rates are too low and processor time is the better figure"
	}
	return fmt.Sprintf("%s: %d processors (%s), %d MiB, %s, kernel %s, %s, load %.1f at the start%s.", m.Began.Format("2006-01-02 15:04 UTC"),
		m.Processors, m.Processor, m.Memory>>20, m.FileSystem, m.Kernel, m.Go, m.Load, busy)
}

// Warm reads a file into the page cache, and has what others wrote written out.
func Warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// Not os.File's own copying, which may not read at all.
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return err
	}
	flushAll()
	return nil
}
