package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/term"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

// maxPassword bounds what is read from a file or a command that may turn out to
// be something else.
const maxPassword = 64 << 10

// Password returns the password from where the settings say, or asks for it. With
// confirm, a typed one is asked for twice.
func (a *App) Password(ctx context.Context, confirm bool) ([]byte, error) {
	s := &a.Settings
	switch {
	case s.PasswordFile != "":
		return a.NewPassword(ctx, s.PasswordFile)
	case s.PasswordCommand != "":
		p, err := a.passwordFromCommand(ctx, s.PasswordCommand)
		return p, fault.At("run password command", "", err)
	case s.PasswordFD >= 0:
		object := fmt.Sprint(s.PasswordFD)
		var from io.Reader = a.Stdin
		if s.PasswordFD != 0 {
			f := os.NewFile(uintptr(s.PasswordFD), "password")
			if f == nil {
				return nil, fault.At("read password descriptor", object, errors.New("not a descriptor"))
			}
			defer f.Close()
			from = f
		}
		p, err := firstLine(from)
		return p, fault.At("read password descriptor", object, err)
	}
	f, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, fault.At("read password", "", fault.ErrNoPassword)
	}
	how := a.ask
	if confirm {
		how = a.askTwice
	}
	p, err := how(ctx, f, "Password: ")
	return p, fault.At("read password", "", err)
}

// NewPassword returns one that is to open a vault from a file, or asks for it, twice.
func (a *App) NewPassword(ctx context.Context, file string) ([]byte, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.At("read password file", file, err)
		}
		defer f.Close()
		p, err := firstLine(f)
		return p, fault.At("read password file", file, err)
	}
	f, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, fault.At("read new password", "", fault.ErrNoPassword)
	}
	p, err := a.askTwice(ctx, f, "New password: ")
	return p, fault.At("read new password", "", err)
}

func (a *App) askTwice(ctx context.Context, f *os.File, prompt string) ([]byte, error) {
	p, err := a.ask(ctx, f, prompt)
	if err != nil {
		return nil, err
	}
	again, err := a.ask(ctx, f, "Again: ")
	if err == nil && !bytes.Equal(p, again) {
		err = errors.New("the two differ")
	}
	clear(again)
	return p, err
}

// firstLine returns the first line without its end; it must not be empty.
func firstLine(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxPassword)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, err
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, errors.New("its first line is empty")
	case len(line) >= maxPassword-1:
		return nil, fmt.Errorf("its first line has over %d bytes", maxPassword)
	}
	return line, nil
}

func (a *App) passwordFromCommand(ctx context.Context, command string) ([]byte, error) {
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/c"
	}
	c := exec.CommandContext(ctx, shell, flag, command)
	c.Stdin, c.Stderr = a.Stdin, a.Stderr
	var said bytes.Buffer
	c.Stdout = &said
	if err := c.Run(); err != nil {
		return nil, err
	}
	return firstLine(&said)
}

// ask reads a line from the terminal without showing it, and gives the terminal
// back as it was if the user interrupts.
func (a *App) ask(ctx context.Context, f *os.File, prompt string) ([]byte, error) {
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprint(a.Stderr, prompt)
	defer fmt.Fprintln(a.Stderr)
	type answer struct {
		line []byte
		err  error
	}
	// The read cannot be stopped; after an interrupt the process ends soon.
	typed := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(int(f.Fd()))
		typed <- answer{line, err}
	}()
	select {
	case got := <-typed:
		if got.err == nil && len(got.line) == 0 {
			got.err = errors.New("it is empty")
		}
		return got.line, got.err
	case <-ctx.Done():
		_ = term.Restore(int(f.Fd()), before)
		return nil, ctx.Err()
	}
}
