package qemu

import (
	"context"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// Latency is how long the guest's requests to its disks have taken since the call before,
// on average, and how many they were. Somebody else who talks with QEMU is not waited for.
func (h *hold) Latency(ctx context.Context) (mean time.Duration, requests int64, err error) {
	c, err := qmp.Dial(ctx, h.d.path, qmp.Options{Greeting: 300 * time.Millisecond})
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	return h.served(ctx, &machine.Monitor{Client: c})
}

// served is Latency in a conversation with QEMU.
func (h *hold) served(ctx context.Context, m *machine.Monitor) (mean time.Duration, requests int64, err error) {
	took, n, err := m.Requests(ctx, func(qdev string) bool {
		return slices.ContainsFunc(h.views, func(v *view) bool { return v.QDev == qdev })
	})
	if err != nil {
		return 0, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.stats
	h.stats = stats{took, n}
	if requests = n - was.requests; was.requests == 0 || requests <= 0 {
		return 0, 0, nil // the first look, or a guest that began anew
	}
	return (took - was.took) / time.Duration(requests), requests, nil
}

// stats is what the guest's requests came to by a moment.
type stats struct {
	took     time.Duration
	requests int64
}
