package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// note is what is under way in one QEMU, for whoever comes after a crash. What else a job
// makes has its name on it; this has not.
type note struct {
	Process string `json:"process"`          // the QEMU that it is of; with another one nothing of it is true
	Paused  bool   `json:"paused,omitempty"` // we have paused the guest, or are about to
	Agent   string `json:"agent,omitempty"`  // socket of the agent that has frozen the guest, or may have
	Server  bool   `json:"server,omitempty"` // the NBD server is ours
}

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

// noted returns the note: empty if there is none of the QEMU that is there now.
func (d *Driver) noted() (n note, err error) {
	b, err := os.ReadFile(d.notePath())
	if errors.Is(err, fs.ErrNotExist) {
		return note{Process: d.processNow()}, nil
	}
	if err != nil {
		return n, fmt.Errorf("read what is under way: %w", err)
	}
	if json.Unmarshal(b, &n) != nil || n.Process != d.processNow() {
		return note{Process: d.processNow()}, nil // half-written: what follows it had not begun
	}
	return n, nil
}

// note changes the note. It is there whole before it returns; not synced, as QEMU does
// not outlive the machine either.
func (d *Driver) note(change func(*note)) error {
	n, err := d.noted()
	if err != nil {
		return err
	}
	change(&n)
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	path := d.notePath()
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

// forget removes the note if there is nothing in it, and the socket that disks were
// read through.
func (d *Driver) forget() error {
	n, err := d.noted()
	if err != nil {
		return err
	}
	if !n.Paused && n.Agent == "" && !n.Server {
		err = os.Remove(d.notePath())
	}
	if err2 := os.Remove(d.socket()); !errors.Is(err2, fs.ErrNotExist) {
		err = errors.Join(err, err2)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *Driver) processNow() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}
