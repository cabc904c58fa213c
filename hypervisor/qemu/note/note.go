// Package note keeps what a backup has under way in one QEMU and has not put a name on:
// that the guest is paused, that its agent has frozen it, that the NBD server is ours. It
// is a small file that outlives processes, so that whoever comes after a crash knows.
//
// A note is of one process of QEMU: with another one nothing of it is true. It is written
// before what it tells of is done, and changed after that is undone. The file is replaced
// whole; it is not synced, as QEMU does not outlive the machine either.
package note

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Note is what is under way.
type Note struct {
	Process string `json:"process"`          // the QEMU that it is of
	Paused  bool   `json:"paused,omitempty"` // we have paused the guest, or are about to
	Agent   string `json:"agent,omitempty"`  // socket of the agent that has frozen the guest, or may have
	Server  bool   `json:"server,omitempty"` // the NBD server is ours
}

// Empty reports whether nothing is under way.
func (n Note) Empty() bool { return !n.Paused && n.Agent == "" && !n.Server }

// Last reads the note at path, whichever process it is of. There may be none, which is an
// empty one; one that is half-written is none too: what follows it had not begun.
func Last(path string) (n Note, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Note{}, nil
	}
	if err != nil {
		return Note{}, fmt.Errorf("read what is under way: %w", err)
	}
	if json.Unmarshal(b, &n) != nil {
		return Note{}, nil
	}
	return n, nil
}

// Read reads the note at path that is of a process.
func Read(path, process string) (Note, error) {
	n, err := Last(path)
	if n.Process != process {
		n = Note{Process: process}
	}
	return n, err
}

// Change changes the note at path. It is there whole when it returns.
func Change(path, process string, change func(*Note)) error {
	n, err := Read(path, process)
	if err != nil {
		return err
	}
	change(&n)
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	err = os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("note what is under way: %w", err)
	}
	return nil
}
