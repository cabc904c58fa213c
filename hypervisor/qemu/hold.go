package qemu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
)

// hold is a freeze that is in force. Nearly all of it is in QEMU.
type hold struct {
	d      *Driver
	tag    string
	record []byte
	views  []*view
	guard  *guard // nil: none

	mu       sync.Mutex // guards the rest
	m        *machine.Monitor
	released bool
}

func (h *hold) Record() []byte { return h.record }

// monitor is the conversation with QEMU, begun anew if it is over.
func (h *hold) monitor(ctx context.Context) (*machine.Monitor, error) {
	select {
	case <-h.m.Done():
		m, err := h.d.connect(ctx)
		if err != nil {
			return nil, err
		}
		h.m = m
	default:
	}
	return h.m, nil
}

// Changed returns nil as long as QEMU still shows the instant. It asks QEMU for what we
// made, and the view of each disk for a byte: one that has broken gives none.
func (h *hold) Changed(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return hypervisor.ErrReleased
	}
	gone := func(v *view, err error) error {
		return fmt.Errorf("disk %s: %w: its view is gone: %w", v.Key, hypervisor.ErrChanged, err)
	}
	for _, v := range h.views {
		im, err := h.d.open(ctx, hypervisor.Disk{Key: v.Key})
		if err != nil {
			return gone(v, err)
		}
		_, err = im.ReadAt(make([]byte, 512), 0)
		size := im.Size()
		if err = errors.Join(err, im.Close()); err != nil {
			return gone(v, err)
		}
		if size != v.size {
			return gone(v, fmt.Errorf("%d bytes instead of %d", size, v.size))
		}
	}
	return ctx.Err()
}

// Release takes everything out of QEMU that the freeze put there but for one bitmap of
// each disk: the new one if its point is there, else the one from before.
func (h *hold) Release(ctx context.Context, kept bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return nil
	}
	m, err := h.monitor(ctx)
	if err != nil {
		// QEMU is gone, and with it all that is ours; or it is not, then the guard
		// finds it there, or the next freeze.
		h.released = true
		return fmt.Errorf("release what is frozen in QEMU: %w", err)
	}
	below := map[string]string{}
	for _, v := range h.views {
		below[v.QDev] = v.Node
	}
	err = h.d.removeJob(ctx, m, h.tag, below)
	for _, v := range h.views {
		if kept && v.Since != "" {
			err = errors.Join(err, m.RemoveBitmap(ctx, v.Node, v.Since))
		}
		if !kept && v.Bitmap != "" {
			err = errors.Join(err, m.RemoveBitmap(ctx, v.Node, v.Bitmap))
		}
	}
	h.released = true
	if err == nil {
		h.guard.say(order{Do: over})
	}
	h.guard.leave()
	return errors.Join(err, h.d.forget(), m.Close())
}

// undo ends a freeze that did not come about.
func (h *hold) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m, err := h.monitor(ctx)
	if err != nil {
		h.guard.leave()
		return err
	}
	if err = h.d.rescue(ctx, m); err == nil {
		err = h.Release(ctx, false)
	} else {
		h.guard.leave()
		err = errors.Join(err, m.Close())
	}
	return err
}
