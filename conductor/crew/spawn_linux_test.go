package crew

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/vault/seal"
	"go.uber.org/zap"
)

type anyone struct{}

func (anyone) Admit(*flow.Config)     {}
func (anyone) Dismiss(string, uint32) {}

// A worker that does not take its settings, which are more than a pipe holds, keeps
// nobody else from the crew: it can be looked at, scaled down, drained and dismissed.
func TestWorkerThatDoesNotTakeItsSettings(t *testing.T) {
	ends := map[string]func(*Crew){
		"dismissed": (*Crew).Dismiss,
		"drained":   func(c *Crew) { c.Drain(context.Background()) },
		"scaled": func(c *Crew) {
			if _, err := c.Scale(flow.Seal, 1); err != nil {
				t.Error(err)
			}
			if s := c.Stages(nil); len(s) == 0 {
				t.Error("no stages")
			}
			c.Dismiss()
		},
	}
	for name, end := range ends {
		for _, stage := range []string{flow.Seal, flow.Indexer} {
			t.Run(name+" "+stage, func(t *testing.T) {
				t.Parallel()
				a, err := arena.New(arena.Shape{RawSlots: 1, SealedSlots: 1, RawSize: 4096, SealedSize: 4096})
				if err != nil {
					t.Fatal(err)
				}
				defer a.Close()
				folder := t.TempDir()
				if err := os.Mkdir(filepath.Join(folder, "log"), 0o700); err != nil {
					t.Fatal(err)
				}
				keys, domain, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				c := &Crew{
					Keys:    keys,
					Command: []string{"sh", "-c", "exec sleep 600"}, Folder: folder, Log: zap.NewNop(), Arena: a, Queue: anyone{},
					Note: func(events.Fact) {}, Stop: func(f *flow.Fault) { t.Error(f) }, Depths: func(context.Context) map[string]uint64 { return nil },
					Settings: flow.Config{Work: flow.Work{Domain: domain, Vault: strings.Repeat("v", 4<<20)}},
				}
				for range 2 {
					if err := c.Start(stage); err != nil {
						t.Fatal(err)
					}
				}
				if s := c.Stages(nil); len(s) == 0 {
					t.Error("no stages")
				}
				done := make(chan struct{})
				go func() { defer close(done); end(c) }()
				select {
				case <-done:
				case <-time.After(30 * time.Second):
					t.Fatal("the crew is stuck")
				}
			})
		}
	}
}
