package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrTool is wrapped by the error of a function whose outside program is not
// on this machine; the message names the program and the Debian package.
var ErrTool = errors.New("program is not installed")

// find returns the path of a program. Debian keeps mke2fs and debugfs in
// /usr/sbin, which is not in the PATH of an ordinary user.
func find(name, pkg string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("find %s (Debian package %s): %w", name, pkg, ErrTool)
}

// call runs a program and returns what it said on stderr; a non-zero exit is an
// error that carries the same text.
func call(ctx context.Context, env []string, path string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, path, args...)
	c.Env = append(os.Environ(), env...)
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", filepath.Base(path), err, strings.TrimSpace(said.String()))
	}
	return said.String(), nil
}
