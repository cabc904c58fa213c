package crew

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"go.uber.org/zap"
)

type anyone struct{}

func (anyone) Admit(*flow.Config)     {}
func (anyone) Dismiss(string, uint32) {}

// A worker that does not take its settings, which are more than a pipe holds, keeps
// nobody else from the crew: it can be looked at, and dismissed.
func TestWorkerThatDoesNotTakeItsSettings(t *testing.T) {
	a, err := arena.New(arena.Shape{RawSlots: 1, SealedSlots: 1, RawSize: 4096, SealedSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := &Crew{
		Command: []string{"sh", "-c", "exec sleep 600"}, Folder: folder, Log: zap.NewNop(), Arena: a, Queue: anyone{},
		Note: func(events.Fact) {}, Stop: func(f *flow.Fault) { t.Error(f) },
		Settings: flow.Config{Work: flow.Work{Vault: strings.Repeat("v", 4<<20)}},
	}
	if err := c.Start(flow.Reader); err != nil {
		t.Fatal(err)
	}
	if s := c.Stages(nil); len(s) == 0 {
		t.Error("no stages")
	}
	c.Dismiss()
}
