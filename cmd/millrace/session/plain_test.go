package session

import (
	"bytes"
	"errors"
	"testing"
)

// Errors name what images and vaults say, which may be meant for the terminal.
func TestNotesMoveNoCursor(t *testing.T) {
	var out bytes.Buffer
	a := &App{Stderr: &out}
	a.Note("millrace: %v", errors.New("\x1b]0;title\a\x1b[31m\u202edisk\xff\r\n\tsecond line"))
	if got, want := out.String(), "millrace: \\x1b]0;title\\a\\x1b[31m\\u202edisk\\xff\n\tsecond line\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
