package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// hold is a freeze that is in force. Nearly all of it is in QEMU.
type hold struct {
	d      *Driver
	tag    string
	record []byte
	views  []*view
	guard  *guard // nil: none

	mu       sync.Mutex // guards the rest
	released bool
	stats    stats
}

func (h *hold) Record() []byte { return h.record }

// talk calls with a conversation with QEMU. Somebody else may have to end theirs for it;
// and one that breaks off is begun anew, a few times, so call must bear being called
// again.
func (h *hold) talk(ctx context.Context, call func(*machine.Monitor) error) error {
	for tries := 0; ; tries++ {
		m, err := h.d.connect(ctx)
		if err == nil {
			err = call(m)
			_ = m.Close() // nothing is left to be said
		}
		broken := errors.Is(err, qmp.ErrClosed) || errors.Is(err, io.EOF)
		if ctx.Err() != nil || !errors.Is(err, qmp.ErrBusy) && (!broken || tries == 3) {
			return err
		}
		time.Sleep(30 * time.Millisecond << tries)
	}
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

// releaseLimit is how long QEMU may take to let go of everything.
const releaseLimit = time.Minute

// Release takes everything out of QEMU that the freeze put there but for one bitmap of
// each disk: the new one if its point is there, else the one from before.
func (h *hold) Release(ctx context.Context, kept bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	below := map[string]string{}
	for _, v := range h.views {
		below[v.QDev] = v.Node
	}
	err := h.talk(ctx, func(m *machine.Monitor) error {
		err := h.d.removeJob(ctx, m, h.tag, below)
		for _, v := range h.views {
			if kept && v.Since != "" {
				err = errors.Join(err, m.RemoveBitmap(ctx, v.Node, v.Since))
			}
			if !kept && v.Bitmap != "" {
				err = errors.Join(err, m.RemoveBitmap(ctx, v.Node, v.Bitmap))
			}
		}
		return err
	})
	// If QEMU is gone, so is all that is ours. If it is not, the guard finds it there, or
	// the next freeze.
	h.released = true
	if err != nil {
		h.guard.leave()
		return fmt.Errorf("release what is frozen in QEMU: %w", err)
	}
	h.guard.say(order{Do: over})
	h.guard.leave()
	return h.d.forget()
}

// undo ends a freeze that did not come about.
func (h *hold) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := h.talk(ctx, func(m *machine.Monitor) error { return h.d.rescue(ctx, m) }); err != nil {
		h.guard.leave()
		return err
	}
	return h.Release(ctx, false)
}
