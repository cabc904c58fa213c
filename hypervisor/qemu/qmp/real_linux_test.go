package qmp_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// A real QEMU talks with one at a time, takes open files, and tells of what happens.
func TestQEMU(t *testing.T) {
	t.Parallel()
	v := qemutest.Start(t, nil)
	stopped := make(chan struct{}, 10)
	first, err := qmp.Dial(t.Context(), v.Socket, qmp.Options{Event: func(e qmp.Event) {
		if e.Name == "STOP" {
			stopped <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := qmp.Dial(t.Context(), v.Socket, qmp.Options{Greeting: 100 * time.Millisecond}); !errors.Is(err, qmp.ErrBusy) {
		t.Errorf("the second: %v", err)
	}
	if err := first.Do(t.Context(), "stop", nil, nil); err != nil {
		t.Error(err)
	}
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Error("no event")
	}
	var refused *qmp.Error
	if err := first.Do(t.Context(), "no-such-thing", nil, nil); !errors.As(err, &refused) || refused.Class != "CommandNotFound" {
		t.Error(err)
	}
	t.Run("files", func(t *testing.T) { sendFiles(t, first) })
	_ = first.Close()
	second, err := qmp.Dial(t.Context(), v.Socket, qmp.Options{})
	if err != nil {
		t.Fatalf("the first has gone: %v", err)
	}
	defer second.Close()
	var status struct{ Status string }
	if err := second.Do(t.Context(), "query-status", nil, &status); err != nil || status.Status != "paused" {
		t.Errorf("%+v, %v", status, err)
	}
	if err := second.Do(t.Context(), "quit", nil, nil); err != nil {
		t.Error(err)
	}
	<-second.Done()
	if err := second.Do(t.Context(), "query-status", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Error(err)
	}
}

// sendFiles gives QEMU a file twice, and QEMU opens it.
func sendFiles(t *testing.T, c *qmp.Client) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(12 << 20); err != nil {
		t.Fatal(err)
	}
	wants := map[int]string{7: "short", 8: strings.Repeat("long", 1<<13)}
	for set, opaque := range wants {
		if err := c.Send(t.Context(), f, "add-fd", map[string]any{"fdset-id": set, "opaque": opaque}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var sets []struct {
		ID  int `json:"fdset-id"`
		FDs []struct{ Opaque string }
	}
	if err := c.Do(t.Context(), "query-fdsets", nil, &sets); err != nil || len(sets) != 2 {
		t.Fatalf("%d sets, %v", len(sets), err)
	}
	for _, s := range sets {
		if len(s.FDs) != 1 || s.FDs[0].Opaque != wants[s.ID] {
			t.Errorf("set %d has %d files", s.ID, len(s.FDs))
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), "blockdev-add", map[string]any{"driver": "file", "node-name": "n", "filename": "/dev/fdset/7"}, nil); err != nil {
		t.Error(err)
	}
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		}
	}
	if err := c.Do(t.Context(), "query-named-block-nodes", nil, &nodes); err != nil || len(nodes) != 1 || nodes[0].Image.Size != 12<<20 {
		t.Errorf("%+v, %v", nodes, err)
	}
	// A file that is closed is not sent, and neither is its command.
	if err := c.Send(t.Context(), f, "add-fd", nil, nil); err == nil || errors.Is(err, qmp.ErrClosed) {
		t.Error(err)
	}
	if err := c.Do(t.Context(), "query-status", nil, nil); err != nil {
		t.Errorf("after a file that could not be sent: %v", err)
	}
}
