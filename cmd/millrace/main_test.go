package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

func TestInterruptExits130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, err bytes.Buffer
	code := newApp(strings.NewReader("pw\n"), &out, &err).run(ctx, []string{"init", t.TempDir() + "/v", "--password-fd", "0", "--state", t.TempDir()})
	if code != fault.ExitInterrupted || !strings.Contains(err.String(), "[interrupted]") {
		t.Errorf("exit %d\n%s%s", code, out.String(), err.String())
	}
}

// The first signal asks, the second ends.
func TestASecondInterruptEndsAtOnce(t *testing.T) {
	signals := make(chan os.Signal)
	asked := make(chan struct{})
	var said bytes.Buffer
	code := make(chan int)
	go func() { code <- interrupt(signals, func() { close(asked) }, &said) }()
	signals <- os.Interrupt
	<-asked
	select {
	case <-code:
		t.Fatal("the first signal ended the program")
	case signals <- os.Interrupt:
	}
	if got := <-code; got != fault.ExitInterrupted || !strings.Contains(said.String(), "ended at once") {
		t.Errorf("exit %d, said %q", got, said.String())
	}
}
