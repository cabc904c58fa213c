// Package drivers is the table of hypervisor drivers: what a source that a user names
// means ([Parse]), and which driver a guest of a job is read with ([For]).
//
// A source is folder:PATH, which a bare PATH means too, or qemu:PATH with the path of a
// QMP socket.
package drivers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/hypervisor/run"
	"github.com/millrace-backup/millrace/id"
)

// Folder is the name of the driver for files.
const Folder = "folder"

// Source is where guests are.
type Source struct {
	Driver string // Folder, or qemu.Name
	Path   string // absolute
}

// Parse reads a source. What is none is a usage error.
func Parse(s string) (Source, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if ok && scheme == "hyperv" {
		return Source{}, fault.Usage("source %s: this version has no driver %s; it reads folder:PATH and qemu:QMP-SOCKET", s, scheme)
	}
	out := Source{Driver: Folder}
	switch {
	case ok && scheme == qemu.Name:
		out.Driver = qemu.Name
	case !ok || scheme != Folder:
		rest = s
	}
	var err error
	if out.Path, err = filepath.Abs(rest); err != nil || rest == "" {
		return Source{}, fault.Usage("source %q: it is folder:PATH, PATH or qemu:QMP-SOCKET", s)
	}
	return out, nil
}

// Inspect lists the guests there. guest is the id of a guest that has it from elsewhere,
// or zero.
func (s Source) Inspect(ctx context.Context, guest id.Guest, vault id.Vault) ([]hypervisor.Guest, error) {
	if s.Driver == qemu.Name {
		return qemu.New(s.Path, qemu.Options{GuestID: guest, Vault: vault}).Inspect(ctx)
	}
	return folder.New(s.Path, folder.Options{GuestID: guest, Vault: vault}).Inspect(ctx)
}

// Driver is what a job needs of one.
type Driver interface {
	hypervisor.Freezer
	hypervisor.Opener
}

// For returns the driver of a guest of a job.
func For(g flow.WorkGuest, c *flow.Config) (Driver, error) {
	switch g.Driver {
	case run.Name:
		return run.New(g.Source), nil
	case Folder:
		return folder.New(g.Source, folder.Options{GuestID: g.ID}), nil
	case qemu.Name:
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return qemu.New(g.Source, qemu.Options{
			GuestID: g.ID, Vault: c.Work.VaultID, Job: c.Job, Folder: c.Folder, Fleece: c.Work.Fleece, Granularity: c.Work.Granularity,
			State: filepath.Join(filepath.Dir(filepath.Dir(c.Folder)), qemu.Name), // the state folder has the jobs', which have theirs
			Guard: []string{exe, "guard"}, Lock: filepath.Join(c.Folder, lease.LockName),
		}), nil
	}
	return nil, fmt.Errorf("there is no driver %q", g.Driver)
}
