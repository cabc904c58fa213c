// Package rig is what campaigns stand on: the program built, a vault that opens
// quickly, images, and the program run as a process whose lines are read.
//
// [Build] makes the binary, [New] a [Place]: a folder with a vault, a state
// folder and a password. [Place.Run] runs a command to its end, [Place.Start]
// leaves it running so that something can be done to it. Output is always --json,
// read line by line into [Line].
//
// The vaults have a cheap password function (8 MiB, one pass), because campaigns
// open them thousands of times; nothing else about them differs from real ones.
// A process is killed with its whole group when its context ends.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/genesis"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Password opens every vault that New makes.
const Password = "correct horse"

// Build builds the program into a folder and returns its path. The race detector
// is off: it would hide what kills at odd moments are to find.
func Build(ctx context.Context, folder string) (string, error) {
	path := filepath.Join(folder, "millrace")
	if out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/millrace-backup/millrace/cmd/millrace").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
}

// Place is a vault and what it takes to use it.
type Place struct {
	Program string
	Dir     string // images, and what is restored
	Vault   string
	State   string
	// Recovery is the vault's recovery key.
	Recovery string
}

// New makes a vault and all that goes with it in a folder, which is made too.
func New(ctx context.Context, program, folder string, now func() time.Time) (*Place, error) {
	p := &Place{Program: program, Dir: folder, Vault: filepath.Join(folder, "vault"), State: filepath.Join(folder, "state")}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	st, err := dir.Create(p.Vault)
	if err != nil {
		return nil, err
	}
	var v *vault.Vault
	v, p.Recovery, err = vault.Create(ctx, st, []byte(Password), vault.CreateOptions{
		KDF: vault.KDF{Name: "argon2id", MemoryKiB: 8 << 10, Time: 1, Threads: 1}, Now: now,
	})
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, v, ledger.Options{Now: now})
	if err != nil {
		return nil, err
	}
	if _, err := genesis.Begin(ctx, v, l, "rig"); err != nil {
		return nil, err
	}
	return p, errors.Join(os.WriteFile(p.Path("password"), []byte(Password+"\n"), 0o600), os.WriteFile(p.Path("recovery"), []byte(p.Recovery+"\n"), 0o600))
}

// Path is the path of a file of the place.
func (p *Place) Path(name string) string { return filepath.Join(p.Dir, name) }

// With is the same place with another vault and another state folder.
func (p *Place) With(vault, state string) *Place {
	q := *p
	q.Vault, q.State = vault, state
	return &q
}

// Copy makes a place of its own in a folder: the vault as it is, by hard links, the state,
// and some files of the place.
func (p *Place) Copy(folder string, files ...string) (*Place, error) {
	q := p.With(filepath.Join(folder, "vault"), filepath.Join(folder, "state"))
	q.Dir = folder
	err := errors.Join(os.MkdirAll(folder, 0o700), Link(p.Vault, q.Vault), os.CopyFS(q.State, os.DirFS(p.State)))
	for _, name := range append([]string{"password"}, files...) {
		text, wrong := os.ReadFile(p.Path(name))
		err = errors.Join(err, wrong, os.WriteFile(q.Path(name), text, 0o600))
	}
	return q, err
}

// Same wants a point to restore as a disk was.
func (p *Place) Same(ctx context.Context, point, disk string) error {
	out := p.Path("restored.raw")
	if _, err := p.Must(ctx, "restore", point, "--to", out, "--force"); err != nil {
		return err
	}
	same, err := Equal(out, disk)
	if err == nil && !same {
		err = fmt.Errorf("WRONG BYTES: point %s differs from its disk", point)
	}
	return err
}

// Link copies a vault by hard links: nothing in a vault is ever written to again.
func Link(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		return os.Link(path, target)
	})
}

// Equal reports whether two files have the same bytes.
func Equal(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	one, two := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errX := io.ReadFull(x, one)
		m, errY := io.ReadFull(y, two)
		if n != m || !bytes.Equal(one[:n], two[:m]) {
			return false, nil
		}
		for _, err := range []error{errX, errY} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if errX != nil || errY != nil {
			return (errX != nil) == (errY != nil), nil
		}
	}
}

// Bytes adds up the sizes of all files below a folder.
func Bytes(folder string) (total int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
