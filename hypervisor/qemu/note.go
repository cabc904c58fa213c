package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/hypervisor/qemu/note"
)

// notePath is where the note of this QEMU is. It is named by the socket, so that every
// job that comes through it finds it.
func (d *Driver) notePath() string {
	folder := d.o.State
	if folder == "" {
		folder = d.o.Folder
	}
	path, err := filepath.Abs(d.path)
	if err != nil {
		path = d.path
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(folder, "qemu-"+hex.EncodeToString(sum[:8])+".json")
}

// noted returns the note: empty if there is none of the QEMU that was reached last.
func (d *Driver) noted() (note.Note, error) { return note.Read(d.notePath(), d.processNow()) }

func (d *Driver) note(change func(*note.Note)) error {
	return note.Change(d.notePath(), d.processNow(), change)
}

// forget removes the note if there is nothing in it, and the socket that disks were
// read through.
func (d *Driver) forget() error {
	n, err := d.noted()
	if err != nil {
		return err
	}
	var errs []error
	if n.Empty() {
		errs = append(errs, os.Remove(d.notePath()))
	}
	for _, err := range append(errs, os.Remove(d.socket())) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *Driver) processNow() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}
