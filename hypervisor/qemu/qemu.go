package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
	"github.com/millrace-backup/millrace/id"
)

// Name is the driver's, in facts.
const Name = "qemu"

// Options are what the driver needs to know. To inspect, Vault or GuestID is enough.
type Options struct {
	GuestID id.Guest // the guest's id, when it has one from elsewhere
	Vault   id.Vault // whose points the tracking bitmaps are of; and the id is made from
	Job     id.Job   // in whose name a guest is frozen or opened
	Folder  string   // the job's; the socket that disks are read through is there
	Fleece  string   // folder for fleecing files; empty: Folder
	State   string   // folder that outlives jobs, for a note of what is under way
	// Guard starts the process that outlives us, see [Guard]: a program with its
	// arguments. Empty: there is none, and a kill in the wrong moment leaves the
	// guest paused until somebody freezes it again.
	Guard []string
	Lock  string // file that whoever owns the job holds locked; for the guard
	// Granularity of new bitmaps in bytes, a power of two. 0: the finest, from 4 KiB,
	// with which a bitmap takes no more than 16 MiB.
	Granularity int64
	AgentWait   time.Duration // how long a freeze by the agent may take; 0: 10 s
}

// Driver finds, freezes and opens the guest behind one QMP socket. It is safe for use
// by many goroutines.
type Driver struct {
	path string
	o    Options

	mu      sync.Mutex // guards process
	process string     // names the QEMU that was reached last
}

// New returns the driver for the QMP socket at path. Nothing is opened yet.
func New(path string, o Options) *Driver {
	if o.AgentWait == 0 {
		o.AgentWait = 10 * time.Second
	}
	if o.Fleece == "" {
		o.Fleece = o.Folder
	}
	return &Driver{path: path, o: o}
}

var (
	_ hypervisor.Inspector = (*Driver)(nil)
	_ hypervisor.Freezer   = (*Driver)(nil)
	_ hypervisor.Opener    = (*Driver)(nil)
	_ hypervisor.Tracker   = (*Driver)(nil)
)

// ErrVersion says that this QEMU cannot give what we need.
var ErrVersion = errors.New("QEMU is too old: 7.1 is the first that can break a snapshot instead of a guest")

// connect begins a conversation.
func (d *Driver) connect(ctx context.Context) (*machine.Monitor, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := qmp.Dial(ctx, d.path, qmp.Options{})
	if err != nil {
		return nil, err
	}
	if !c.Version.AtLeast(7, 1) {
		return nil, errors.Join(fmt.Errorf("%w: this is %v", ErrVersion, c.Version), c.Close())
	}
	pid, name := host.Process(c.Conn())
	d.mu.Lock()
	d.process = name
	d.mu.Unlock()
	return &machine.Monitor{Client: c, PID: pid}, nil
}

// Inspect returns the one guest behind the socket.
func (d *Driver) Inspect(ctx context.Context) ([]hypervisor.Guest, error) {
	g, err := d.inspect(ctx)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", d.path, err)
	}
	return []hypervisor.Guest{g}, nil
}

func (d *Driver) inspect(ctx context.Context) (hypervisor.Guest, error) {
	path, err := filepath.Abs(d.path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return hypervisor.Guest{}, err
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Type() != os.ModeSocket {
		return hypervisor.Guest{}, errors.New("this is no socket: give the path of a QMP socket (qemu -qmp unix:PATH,server=on,wait=off)")
	}
	m, err := d.connect(ctx)
	if err != nil {
		return hypervisor.Guest{}, err
	}
	defer m.Close()
	g := hypervisor.Guest{ID: d.o.GuestID, Driver: Name, Source: path}
	if err := m.Identify(ctx, &g, d.o.Vault); err != nil {
		return g, err
	}
	found, err := m.Disks(ctx)
	if err != nil {
		return g, err
	}
	for _, x := range found {
		if x.Firmware {
			continue // kept with the configuration
		}
		if x.Unprotected != "" {
			g.Unprotected = append(g.Unprotected, hypervisor.Unprotected{Key: x.Key, Reason: x.Unprotected})
			continue
		}
		g.Disks = append(g.Disks, hypervisor.Disk{ID: id.NewDisk(g.ID, x.Key), Key: x.Key, Path: x.File, Info: x.Info})
	}
	if len(g.Disks) == 0 {
		return g, hypervisor.ErrNoDisks
	}
	if g.Config, err = m.Describe(ctx, &g, found); err != nil {
		return g, fmt.Errorf("its configuration: %w", err)
	}
	return g, distinct(g)
}

// distinct makes sure that no two disks pass for each other.
func distinct(g hypervisor.Guest) error {
	seen := map[string]bool{}
	for _, d := range g.Disks {
		if seen[d.Key] {
			return fmt.Errorf("two disks are called %q: give their devices ids of their own", d.Key)
		}
		seen[d.Key] = true
	}
	if len(g.Disks) > hypervisor.MaxDisks {
		return fmt.Errorf("%d disks, and no more than %d can be backed up together", len(g.Disks), hypervisor.MaxDisks)
	}
	return nil
}
