package qemu_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/hypervisor/qemu/note"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
	"github.com/millrace-backup/millrace/id"
)

// lateAgent is an agent that has frozen its guest, and that answers until the listener is
// closed.
func lateAgent(l net.Listener, frozen *atomic.Bool) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(c); lines.Scan(); {
			var asked struct {
				Execute   string
				Arguments struct{ ID int64 }
			}
			_ = json.Unmarshal(bytes.TrimLeft(lines.Bytes(), "\xff"), &asked)
			answer := `{"return": 1}`
			switch asked.Execute {
			case "guest-sync-delimited":
				answer = fmt.Sprintf("\xff"+`{"return": %d}`, asked.Arguments.ID)
			case "guest-fsfreeze-thaw":
				frozen.Store(false)
			case "guest-fsfreeze-status":
				answer = map[bool]string{true: `{"return": "frozen"}`, false: `{"return": "thawed"}`}[frozen.Load()]
			}
			_, _ = c.Write([]byte(answer + "\n"))
		}
		_ = c.Close()
	}
}

// TestGuardOutlivesTheJob: an agent that has frozen the guest and then hung comes back
// when the job is long over. The guard is still there, thaws the guest, and leaves alone
// what else is noted.
func TestGuardOutlivesTheJob(t *testing.T) {
	dir := t.TempDir()
	socket, port := filepath.Join(dir, "qmp"), filepath.Join(dir, "agent")
	sum := sha256.Sum256([]byte(socket))
	path := filepath.Join(dir, "qemu-"+hex.EncodeToString(sum[:8])+".json")
	must(t, note.Change(path, "this one", func(n *note.Note) { n.Agent, n.Server = port, true }))

	told := fmt.Sprintf(`{"path":%q,"vault":%q,"job":%q,"folder":%q,"state":%q}`+"\n"+`{"do":"rescue"}`+"\n"+`{"do":"over"}`, socket, vault, id.NewJob(), dir, dir)
	left := make(chan error, 1)
	go func() { left <- qemu.Guard(t.Context(), strings.NewReader(told)) }()
	select {
	case err := <-left:
		t.Fatalf("the guard has left a guest that is frozen: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	l, err := net.Listen("unix", port)
	must(t, err)
	defer l.Close()
	var frozen atomic.Bool
	frozen.Store(true)
	go lateAgent(l, &frozen)
	must(t, <-left)
	if n, err := note.Last(path); err != nil || frozen.Load() || n.Agent != "" || !n.Server || n.Process != "this one" {
		t.Errorf("frozen %t; %+v, %v", frozen.Load(), n, err)
	}
}

// TestGuardIsToldThatTheGuestGoesOn: a guard that is not would kill who reads the disks
// when the guest may stand still no longer.
func TestGuardIsToldThatTheGuestGoesOn(t *testing.T) {
	path := qemutest.Image(t, "raw", size, noise(1<<20, 1))
	vm := qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: path, Format: "raw"}})
	told := filepath.Join(t.TempDir(), "told")
	j := newJob(t, vm, t.TempDir(), func(o *qemu.Options) { o.Guard = []string{"sh", "-c", `cat > "$0".new; mv "$0".new "$0"`, told} })
	must(t, j.freeze(j.inspect()).Release(t.Context(), false))
	var text []byte
	for end := time.Now().Add(20 * time.Second); len(text) == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		text, _ = os.ReadFile(told)
	}
	_, after, ok := strings.Cut(string(text), `{"do":"held"`)
	if !ok || !strings.Contains(after, `{"do":"free"}`) || strings.Contains(after, "held") || !strings.HasSuffix(after, `{"do":"over"}`+"\n") {
		t.Errorf("the guard was told\n%s", text)
	}
}
