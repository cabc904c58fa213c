package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// point is what the story needs to know of a recovery point.
type point struct {
	ID          string `json:"id"`
	StoredBytes int64  `json:"stored_bytes"`
}

// listPoints asks as a script would.
func (s *story) listPoints(ctx context.Context) (points []point, err error) {
	c := s.command(ctx, "points", "--json")
	c.Stderr = s.Out
	text, err := c.Output()
	if err != nil {
		return nil, commandError(ctx, "millrace points --json", err)
	}
	if err := json.Unmarshal(text, &points); err != nil {
		return nil, fmt.Errorf("read what millrace points --json printed: %w", err)
	}
	for _, p := range points {
		if len(p.ID) < 8 {
			return nil, fmt.Errorf("read what millrace points --json printed: id %q", p.ID)
		}
	}
	return points, nil
}

// command is the program in the folder, with the settings of the demo and none
// of the user's.
func (s *story) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, s.Program, args...)
	c.Dir = s.folder
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MILLRACE_") }),
		"MILLRACE_VAULT=vault", "MILLRACE_PASSWORD_FILE=password", "MILLRACE_STATE=state")
	// A user who stops the demo has stopped the program too, which then ends in
	// good order; it is killed only if it does not.
	c.Cancel = func() error {
		if err := c.Process.Signal(os.Interrupt); err != nil {
			return c.Process.Kill()
		}
		return nil
	}
	c.WaitDelay = 10 * time.Second
	return c
}

func commandError(ctx context.Context, line string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", line, ctx.Err())
	}
	return fmt.Errorf("%s: %w", line, err)
}
