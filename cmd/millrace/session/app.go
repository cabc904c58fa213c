// Package session is what all verbs of the command line have in common: the
// settings, the streams, the password, the vault that is opened with it and what
// this machine remembers of vaults.
//
// A verb gets an [App] whose settings are complete, calls [App.OpenVault], and
// prints with [App.PrintJSON] or to Stdout what it found, with [App.Note] and
// [App.Progress] what a person may want to know meanwhile. What it did to the
// vault it hands to [App.Record].
//
// Guarantees: the password comes from a file, a command, a descriptor or a
// terminal, is tried only on the vault that was at that place before, and is
// wiped after use. A checkpoint once seen is never forgotten for an older one. The
// remembered files are replaced whole; a crash leaves the old or the new.
//
// An App is for one command line and one goroutine; Progress may be told from
// many. The package knows no verb.
package session

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/user"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/secret"
	"github.com/millrace-backup/millrace/vault"
)

// App is the world as the verbs see it.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Now            func() time.Time
	KDF            vault.KDF // of new passwords
	Settings       Settings  // complete once a verb's function runs
}

// New returns an App on these streams.
func New(stdin io.Reader, stdout, stderr io.Writer) *App {
	return &App{Stdin: stdin, Stdout: stdout, Stderr: stderr, Now: time.Now, KDF: vault.DefaultKDF()}
}

func (a *App) secrets() *secret.Source {
	return &secret.Source{File: a.Settings.PasswordFile, Command: a.Settings.PasswordCommand, FD: a.Settings.PasswordFD, Stdin: a.Stdin, Stderr: a.Stderr}
}

// Password returns the password from where the settings say, or asks for it. With
// confirm, a typed one is asked for twice.
func (a *App) Password(ctx context.Context, confirm bool) ([]byte, error) {
	return a.secrets().Password(ctx, confirm)
}

// NewPassword returns one that is to open a vault from a file, or asks for it, twice.
func (a *App) NewPassword(ctx context.Context, file string) ([]byte, error) {
	return a.secrets().New(ctx, file)
}

// User is who runs the command, for the ledger; "" where the system does not say.
func User() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

// Note tells a person something that is not data, unless --quiet. What is not fit for a
// terminal is written as Plain does, whoever the text came from.
func (a *App) Note(format string, args ...any) {
	if !a.Settings.Quiet {
		fmt.Fprintln(a.Stderr, PlainLines(fmt.Sprintf(format, args...)))
	}
}

// PrintJSON writes v as one line on stdout. An error here has nowhere to go: the
// reader of stdout is gone.
func (a *App) PrintJSON(v any) {
	e := json.NewEncoder(a.Stdout)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
}
