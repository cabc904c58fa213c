// Package secret gets passwords: from a file, a command, an open descriptor or a
// terminal, never from arguments or the environment.
//
// What it returns is the caller's to wipe. What a file or command has beyond its first
// line is ignored; an empty first line is an error and no password.
package secret

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

// Source says where a password comes from: the first of File, Command and FD that is
// set, else the terminal that Stdin may be.
type Source struct {
	File, Command string
	FD            int // negative: none
	Stdin         io.Reader
	Stderr        io.Writer
}

// Password returns the password, or asks for it. With confirm, a typed one is asked for
// twice.
func (s *Source) Password(ctx context.Context, confirm bool) ([]byte, error) {
	switch {
	case s.File != "":
		return s.New(ctx, s.File)
	case s.Command != "":
		p, err := s.passwordFromCommand(ctx, s.Command)
		return p, fault.At("run password command", "", err)
	case s.FD >= 0:
		object := fmt.Sprint(s.FD)
		var from io.Reader = s.Stdin
		if s.FD != 0 {
			f := os.NewFile(uintptr(s.FD), "password")
			if f == nil {
				return nil, fault.At("read password descriptor", object, errors.New("not a descriptor"))
			}
			defer f.Close()
			from = f
		}
		p, err := firstLine(from)
		return p, fault.At("read password descriptor", object, err)
	}
	f, ok := s.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, fault.At("read password", "", fault.ErrNoPassword)
	}
	how := s.ask
	if confirm {
		how = s.askTwice
	}
	p, err := how(ctx, f, "Password: ")
	return p, fault.At("read password", "", err)
}

// New returns a password that is to open a vault, from a file, or asks for it, twice.
func (s *Source) New(ctx context.Context, file string) ([]byte, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.At("read password file", file, err)
		}
		defer f.Close()
		p, err := firstLine(f)
		return p, fault.At("read password file", file, err)
	}
	f, ok := s.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, fault.At("read new password", "", fault.ErrNoPassword)
	}
	p, err := s.askTwice(ctx, f, "New password: ")
	return p, fault.At("read new password", "", err)
}

func (s *Source) askTwice(ctx context.Context, f *os.File, prompt string) ([]byte, error) {
	p, err := s.ask(ctx, f, prompt)
	if err != nil {
		return nil, err
	}
	again, err := s.ask(ctx, f, "Again: ")
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

func (s *Source) passwordFromCommand(ctx context.Context, command string) ([]byte, error) {
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/c"
	}
	c := exec.CommandContext(ctx, shell, flag, command)
	c.Stdin, c.Stderr = s.Stdin, s.Stderr
	var said bytes.Buffer
	c.Stdout = &said
	if err := c.Run(); err != nil {
		return nil, err
	}
	return firstLine(&said)
}

// ask reads a line from the terminal without showing it, and gives the terminal
// back as it was if the user interrupts.
func (s *Source) ask(ctx context.Context, f *os.File, prompt string) ([]byte, error) {
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprint(s.Stderr, prompt)
	defer fmt.Fprintln(s.Stderr)
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
