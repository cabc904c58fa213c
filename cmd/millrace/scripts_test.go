package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace-backup/millrace/vault"
)

// TestMain lets the test binary be "millrace" when a script, or a conductor that
// a script started, runs it under that name.
func TestMain(m *testing.M) {
	testscript.Main(tidied{m}, map[string]func(){"millrace": func() {
		// As users have it, but for passwords that cost little: the scripts open vaults hundreds of times.
		a := newApp(os.Stdin, os.Stdout, os.Stderr)
		a.KDF = vault.KDF{Name: a.KDF.Name, MemoryKiB: 8 << 10, Time: 1, Threads: 1}
		start(a)
	}})
}

// tidied are tests after which the program that they were run with is removed.
type tidied struct{ m *testing.M }

func (t tidied) Run() int {
	code := t.m.Run()
	if folder, _ := built(); folder != "" {
		_ = os.RemoveAll(folder) // a program in a folder for temporary files
	}
	return code
}

// built is a folder with the program as users have it, without the race detector.
var built = sync.OnceValues(func() (folder string, err error) {
	if folder, err = os.MkdirTemp("", "millrace-test-"); err != nil {
		return "", err
	}
	if err := os.Chmod(folder, 0o755); err != nil { // some run it as another user
		return folder, err
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(folder, "millrace"), ".").CombinedOutput(); err != nil {
		return folder, fmt.Errorf("build: %w\n%s", err, out)
	}
	return folder, nil
})

// program is the path of the built program.
func program(t *testing.T) string {
	t.Helper()
	folder, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "millrace")
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
