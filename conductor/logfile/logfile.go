// Package logfile makes the logs of a job: JSON lines by zap, one file for each of
// its processes, in the job's folder under the state directory.
//
// Call [New] with a path; a worker's is "stderr", which the conductor points into
// the job's folder. Each line has time (RFC 3339), level, the place in the
// program, what happened, and fields. Logs are for people who look into a job:
// what counts about it is in the ledger, as facts. Nothing secret is logged;
// keys and passwords are of types that print as "***". A logger may be used from
// many goroutines; lines are written whole and not synced.
package logfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger that appends JSON lines to a file ("stderr" is one):
// its fields come after what every line has.
func New(path string) (*zap.Logger, error) { return open(path, os.Stderr) }

// complaint says once that a log cannot be written: its disk is full, as a rule, and
// then each further line of the log would say so again.
type complaint struct {
	path string
	to   io.Writer
	once sync.Once
}

func (c *complaint) Write(b []byte) (int, error) {
	c.once.Do(func() {
		_, cause, _ := bytes.Cut(bytes.TrimSpace(b), []byte("write error: "))
		fmt.Fprintf(c.to, "millrace: the log %s is not complete, and this is not said again: %s\n", c.path, cause)
	})
	return len(b), nil
}

func (c *complaint) Sync() error { return nil }

func open(path string, to io.Writer) (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	c.OutputPaths, c.ErrorOutputPaths = []string{path}, nil
	c.EncoderConfig.TimeKey, c.EncoderConfig.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	c.Sampling, c.DisableStacktrace = nil, true
	l, err := c.Build(zap.ErrorOutput(&complaint{path: path, to: to}))
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return l, nil
}
