package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/agent"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/hypervisor/qemu/note"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// sweep removes what jobs have left in QEMU that are dead, or were the same as ours
// before its process was started anew.
func (d *Driver) sweep(ctx context.Context, m *machine.Monitor) error {
	if err := d.rescue(ctx, m); err != nil {
		return err
	}
	tags, err := m.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if tag != d.tag() && !host.Ended(ctx, tag, lingering) {
			return fmt.Errorf("job …%s is backing up this guest through the same QEMU: wait until it has ended", tag)
		}
		if err := d.removeJob(ctx, m, tag, nil); err != nil {
			return fmt.Errorf("of job …%s: %w", tag, err)
		}
	}
	return d.stopIdleServer(ctx, m)
}

// removeJob removes exports, filters, nodes, files and copied bitmaps of one job. Below are
// the nodes that its filters are before, by device; QEMU is asked for others.
// It can be called again, and after any part of it.
func (d *Driver) removeJob(ctx context.Context, m *machine.Monitor, tag string, below map[string]string) error {
	prefix := machine.Ours + tag + "-"
	if err := m.RemoveExports(ctx, prefix); err != nil {
		return err
	}
	if err := d.stopIdleServer(ctx, m); err != nil {
		return err
	}
	nodes, err := m.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []string{"-snap", "-cbw", "-fleece"} { // from the top down
		if kind == "-cbw" { // a filter with nothing above it but the guest can be taken out
			if err := m.RemoveFilters(ctx, prefix, below); err != nil {
				return err
			}
		}
		for _, n := range nodes {
			if machine.Own(n.Name, prefix) && strings.HasSuffix(n.Name, kind) {
				if err := m.Do(ctx, "blockdev-del", machine.Args{"node-name": n.Name}, nil); err != nil {
					return err
				}
			}
		}
	}
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			if machine.Own(b.Name, prefix) && strings.HasSuffix(b.Name, machine.ChangesKind) {
				if err := m.RemoveBitmap(ctx, n.Name, b.Name); err != nil {
					return err
				}
			}
		}
	}
	sets, err := m.FDSets(ctx)
	for _, s := range sets {
		for _, f := range s.FDs {
			if f.Opaque == machine.Ours+tag {
				err = errors.Join(err, m.Do(ctx, "remove-fd", machine.Args{"fdset-id": s.ID, "fd": f.FD}, nil))
			}
		}
	}
	return err
}

// stopIdleServer stops the server that the note says is machine.Ours, if it serves nobody else.
func (d *Driver) stopIdleServer(ctx context.Context, m *machine.Monitor) error {
	n, err := d.noted()
	if err != nil || !n.Server {
		return err
	}
	exports, err := m.Exports(ctx)
	if err != nil || len(exports) > 0 {
		return err
	}
	err = m.Do(ctx, "nbd-server-stop", nil, nil)
	var refused *qmp.Error
	if err != nil && !errors.As(err, &refused) { // it was not running
		return err
	}
	return d.note(func(n *note.Note) { n.Server = false })
}

// rescue lets a guest go on that the note says we have paused or frozen.
func (d *Driver) rescue(ctx context.Context, m *machine.Monitor) error {
	n, err := d.noted()
	if err != nil {
		return err
	}
	if n.Paused {
		var status struct{ Status string }
		if err := m.Do(ctx, "query-status", nil, &status); err != nil {
			return err
		}
		if status.Status == "paused" {
			if err := m.Do(ctx, "cont", nil, nil); err != nil {
				return err
			}
		}
		if err := d.note(func(n *note.Note) { n.Paused = false }); err != nil {
			return err
		}
	}
	if n.Agent != "" {
		if err := d.rescueThaw(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// rescueThaw thaws the guest of a note. An agent that does not answer may hang in a
// freeze, and has a thaw queued then; that is no reason not to go on.
func (d *Driver) rescueThaw(ctx context.Context, n note.Note) error {
	trying, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a, err := agent.Dial(trying, n.Agent)
	if err == nil {
		defer a.Close() // as long as we have the line nobody else freezes, and needs the note
		if err = a.Thaw(trying); err != nil {
			_ = a.Abandon()
		}
	}
	switch {
	case err == nil:
		return note.Change(d.notePath(), n.Process, func(n *note.Note) { n.Agent = "" })
	case ctx.Err() == nil && errors.Is(err, agent.ErrSilent):
		return nil
	}
	return err
}
