package conductor

import (
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLog returns a logger that appends JSON lines to a file ("stderr" is one):
// times in RFC 3339, the level, what happened, and the fields. A worker's file is
// its standard error, which the conductor points into the job's folder.
func NewLog(path string) (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	c.OutputPaths, c.ErrorOutputPaths = []string{path}, []string{"stderr"}
	c.EncoderConfig.TimeKey, c.EncoderConfig.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	c.Sampling, c.DisableStacktrace = nil, true
	l, err := c.Build()
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return l, nil
}
