package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be "millrace" when a script, or a conductor that
// a script started, runs it under that name.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"millrace": main})
}

// TestScripts runs testdata/*.txtar: each is a story told in commands, with the
// exit codes and output that other people's scripts rely on. "exits N CMD..."
// runs a command and wants that exit code.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds:                scriptCommands(),
		Setup: func(e *testscript.Env) error {
			for _, set := range [][2]string{
				{"MILLRACE_STATE", filepath.Join(e.WorkDir, "state")},
				{"MILLRACE_VAULT", filepath.Join(e.WorkDir, "vault")},
				{"MILLRACE_PASSWORD_FILE", filepath.Join(e.WorkDir, "password")},
			} {
				e.Setenv(set[0], set[1])
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "password"), []byte("correct horse\n"), 0o600)
		},
	})
}
