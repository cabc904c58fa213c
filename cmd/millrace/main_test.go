package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

func TestInterruptExits130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, err bytes.Buffer
	code := run(ctx, []string{"init", t.TempDir() + "/v", "--password-fd", "0", "--state", t.TempDir()}, strings.NewReader("pw\n"), &out, &err)
	if code != fault.ExitInterrupted || !strings.Contains(err.String(), "[interrupted]") {
		t.Errorf("exit %d\n%s%s", code, out.String(), err.String())
	}
}
