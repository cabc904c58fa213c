package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/agent"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/hypervisor/qemu/note"
)

// still makes the instant: the guest's file systems frozen if that can be had, and the
// guest paused while the filters go in.
func (h *hold) still(ctx context.Context, m *machine.Monitor, p hypervisor.Policy) (f hypervisor.Frozen, err error) {
	var status struct {
		Running bool
		Status  string
	}
	if err := m.Do(ctx, "query-status", nil, &status); err != nil {
		return f, err
	}
	f = hypervisor.Frozen{Consistency: hypervisor.CrashConsistent, Method: "copy-before-write"}
	switch {
	case status.Status == "shutdown" || status.Status == "prelaunch":
		f.Consistency = hypervisor.Offline
	case !status.Running:
		f.Reason = "the guest is not running: it is " + status.Status
	case p == hypervisor.CrashOnly:
		f.Reason = "its agent was not asked, as the policy has it"
	default:
		var thaw func() (time.Duration, error)
		thaw, f.Consistency, f.Reason = h.askAgent(ctx, m)
		if thaw != nil {
			f.Method += ", agent"
			defer func() {
				var late error
				if f.Stood, late = thaw(); late != nil { // the instant is whole; that it goes on is the guard's business now
					f.Reason = "the guest could not be thawed at once: " + late.Error()
				}
			}()
		}
	}
	if p == hypervisor.AppRequired && f.Consistency == hypervisor.CrashConsistent {
		return f, fmt.Errorf("%w: %s", hypervisor.ErrConsistency, f.Reason)
	}
	began := time.Now()
	err = h.pause(ctx, m, status.Running)
	f.Stood = time.Since(began)
	return f, err
}

// askAgent freezes the guest's file systems through its agent. The returned function
// thaws them and says how long they were; nil: the guard knows of all there is to thaw.
func (h *hold) askAgent(ctx context.Context, m *machine.Monitor) (thaw func() (time.Duration, error), consistency, reason string) {
	const crash = hypervisor.CrashConsistent
	path, why, err := m.AgentSocket(ctx)
	if err != nil {
		return nil, crash, err.Error()
	}
	if why != "" {
		return nil, crash, why
	}
	asking, cancel := context.WithTimeout(ctx, min(5*time.Second, h.d.o.AgentWait))
	defer cancel()
	a, err := agent.Dial(asking, path)
	if err != nil {
		return nil, crash, err.Error()
	}
	system, _ := a.OS(asking) // an old agent does not know
	// From here on the guest may be frozen: whoever finds the note thaws it.
	if err := h.d.note(func(n *note.Note) { n.Agent = path }); err != nil {
		_ = a.Close()
		return nil, crash, err.Error()
	}
	h.guard.say(order{Do: held, Limit: h.d.o.AgentWait + pauseLimit})
	freezing, cancelFreeze := context.WithTimeout(ctx, h.d.o.AgentWait)
	defer cancelFreeze()
	began := time.Now()
	if n, err := a.Freeze(freezing); err != nil || n == 0 {
		if err == nil {
			err = errors.New("the guest agent has frozen no file system")
		}
		if late := h.thaw(ctx, a); late != nil {
			err = fmt.Errorf("%w; and the guest could not be thawed at once: %w", err, late)
		}
		return nil, crash, err.Error()
	}
	consistency = hypervisor.FSConsistent
	if system == "mswindows" {
		consistency = hypervisor.AppConsistent
	}
	return func() (time.Duration, error) {
		err := h.thaw(ctx, a)
		return time.Since(began), err
	}, consistency, ""
}

// thaw lets the guest's file systems go on, and hangs up. If that fails the guard goes
// on trying: a freeze that hangs may come true yet.
func (h *hold) thaw(ctx context.Context, a *agent.Client) error {
	h.guard.say(order{Do: held, Limit: pauseLimit})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := a.Thaw(ctx)
	if err != nil {
		_ = a.Abandon()
	}
	_ = a.Close()
	if err != nil {
		h.guard.say(order{Do: rescue})
		return err
	}
	if err := h.d.note(func(n *note.Note) { n.Agent = "" }); err != nil {
		return err
	}
	h.guard.say(order{Do: free})
	return nil
}

// pause stops the guest, puts the filters in, begins the bitmaps, and lets it go on.
func (h *hold) pause(ctx context.Context, m *machine.Monitor, running bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	if running {
		if err := h.d.note(func(n *note.Note) { n.Paused = true }); err != nil {
			return err
		}
		h.guard.say(order{Do: held, Limit: h.d.o.AgentWait + pauseLimit})
		// A crash from here on leaves the guest paused and a note that says by whom.
		if err := m.Do(ctx, "stop", nil, nil); err != nil {
			return err
		}
		defer func() {
			// If it fails the guest is paused: undo, the guard, or the next freeze lets it go on.
			if late := m.Do(context.WithoutCancel(ctx), "cont", nil, nil); late != nil {
				err = errors.Join(err, late)
				return
			}
			h.guard.say(order{Do: free})
			err = errors.Join(err, h.d.note(func(n *note.Note) { n.Paused = false }))
		}()
	}
	for _, v := range h.views {
		err := m.Do(ctx, "qom-set", machine.Args{"path": v.QDev, "property": "drive", "value": v.name(h.tag, "cbw")}, nil)
		if err != nil {
			return fmt.Errorf("disk %s: put a filter before it: %w", v.Key, err)
		}
	}
	return h.beginBitmaps(ctx, m)
}

// beginBitmaps begins a bitmap for each disk and copies aside what has changed since the
// point before, all at once. Where images cannot keep bitmaps they are in memory; where
// there can be none, changes are not tracked and the job goes on.
func (h *hold) beginBitmaps(ctx context.Context, m *machine.Monitor) error {
	var why error
	for _, attempt := range []struct{ persistent, begin bool }{{true, true}, {false, true}, {false, false}} {
		var actions []any
		for _, v := range h.views {
			if attempt.begin {
				actions = append(actions, machine.Args{"type": "block-dirty-bitmap-add", "data": machine.Args{
					"node": v.Node, "name": v.Bitmap, "granularity": v.granularity, "persistent": attempt.persistent && v.persistent}})
			}
			if v.since != nil {
				changes := h.d.changed()
				actions = append(actions,
					machine.Args{"type": "block-dirty-bitmap-add", "data": machine.Args{"node": v.Node, "name": changes, "granularity": v.since.Granularity, "disabled": true}},
					machine.Args{"type": "block-dirty-bitmap-merge", "data": machine.Args{"node": v.Node, "target": changes, "bitmaps": []string{v.Since}}})
			}
		}
		err := m.Do(ctx, "transaction", machine.Args{"actions": actions}, nil)
		if err == nil {
			if !attempt.begin {
				for _, v := range h.views {
					v.Bitmap, v.why = "", fmt.Sprintf("no bitmap can be begun: %v", why)
				}
			}
			return nil
		}
		why = err
	}
	return why
}
