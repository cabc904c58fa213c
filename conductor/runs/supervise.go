package runs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/hypervisor/qemu/machine"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/stages/rundirect"
)

// ErrRunning says that a run has a supervisor already.
var ErrRunning = errors.New("the run is supervised by another process")

// Settings are what the stage of a run is given through its pipe: a line of JSON.
type Settings struct {
	Work    rundirect.Work `json:"work"`
	Vault   string         `json:"vault"` // where it is
	VaultID id.Vault       `json:"vault_id"`
	Grant   []byte         `json:"grant"` // keys
}

// maxAttempts is how often a stage is started that never gets as far as serving: what keeps it
// from that does not go away. One that has served is started again for ever: its guest waits.
const maxAttempts = 3

// MaxSettings bounds the line.
const MaxSettings = 64 << 20

// Supervisor is what Supervise needs.
type Supervisor struct {
	Run     *Run
	Grant   []byte   // keys for the stage
	Command []string // that starts the stage
	Log     *zap.Logger
	Ready   func(notes []string) // called once: the guest runs, or its disks are served
}

// Supervise keeps a run going until ctx ends or somebody calls [End]. The guest is left as it is.
func Supervise(ctx context.Context, s Supervisor) error {
	lock, mine, err := s.Run.lock()
	if err != nil {
		return err
	}
	if !mine {
		return ErrRunning
	}
	defer lock.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := filepath.Join(s.Run.Sockets, stopName)
	_ = os.Remove(stop)
	l, err := net.Listen("unix", stop)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() { // who can connect may end it
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
			cancel()
		}
	}()
	if _, err := os.Lstat(filepath.Join(s.Run.folder, switchingName)); s.Run.Homes != nil && err != nil { // nothing needs to be served
		notes, err := s.guest(ctx)
		if err == nil {
			s.Ready(notes)
		}
		return err
	}
	go s.watchSwitch(ctx)
	var once sync.Once
	var failed error
	served, attempts := false, 0
	for wait := 50 * time.Millisecond; ctx.Err() == nil; {
		begun := time.Now()
		err := s.stage(ctx, func() error {
			served = true
			notes, err := s.guest(ctx)
			if err != nil {
				failed = err
				return err
			}
			once.Do(func() { s.Ready(notes) })
			return nil
		})
		if failed != nil {
			return failed
		}
		if ctx.Err() != nil {
			return nil
		}
		if attempts++; !served && attempts == maxAttempts {
			return fmt.Errorf("the disks cannot be served, see stage.log in %s: %w", s.Run.folder, err)
		}
		s.Log.Warn("the stage has ended; it is started again", zap.Error(err))
		if time.Since(begun) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
	return nil
}

// stage runs the process that serves the disks, to its end. It calls serving when clients can
// connect; an error of that ends it.
func (s Supervisor) stage(ctx context.Context, serving func() error) error {
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	s.Log.Info("stage rundirect", zap.Int("pid", cmd.Process.Pid))
	// It leaves when its control pipe closes; one that does not is ended.
	left := make(chan struct{})
	defer close(left)
	go func() {
		select {
		case <-ctx.Done():
		case <-left:
			return
		}
		_ = in.Close()
		select {
		case <-left:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
		}
	}()
	b, err := json.Marshal(Settings{Work: s.Run.Work(), Vault: s.Run.Vault, VaultID: s.Run.VaultID, Grant: s.Grant})
	if err == nil {
		_, err = in.Write(append(b, '\n'))
	}
	if err == nil {
		err = s.listen(out, serving)
	}
	if err != nil {
		_ = in.Close()
	}
	_, _ = io.Copy(io.Discard, out)
	_ = in.Close()
	return errors.Join(err, cmd.Wait())
}

// line is what the stage tells: that it serves, and what it has served.
type line struct {
	Serving bool              `json:"serving"`
	Counts  *rundirect.Counts `json:"counts"`
}

func (s Supervisor) listen(out io.Reader, serving func() error) error {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			continue
		}
		if l.Serving {
			if err := serving(); err != nil {
				return err
			}
		}
		if l.Counts != nil {
			b, _ := json.Marshal(l.Counts)
			path := filepath.Join(s.Run.folder, countsName)
			if os.WriteFile(path+".new", b, 0o600) == nil { // for people; nothing depends on it
				_ = os.Rename(path+".new", path)
			}
		}
	}
	return nil
}

// TellServing and TellCounts are the stage's side of that.
func TellServing(w io.Writer) error { return json.NewEncoder(w).Encode(line{Serving: true}) }

// TellCounts says what was served. An error has nowhere to go: the supervisor has left, which
// the stage sees by its control pipe.
func TellCounts(w io.Writer, c rundirect.Counts) { _ = json.NewEncoder(w).Encode(line{Counts: &c}) }

// guest starts the run's guest if it is to have one and has not, and lets it go on if it was
// paused because its disks were away.
func (s Supervisor) guest(ctx context.Context) (notes []string, err error) {
	r, err := load(s.Run.folder) // its disks may have moved meanwhile
	if err != nil {
		return nil, err
	}
	if r.Host == "" || !r.Keeping.IsZero() {
		return nil, nil
	}
	g := r.Machine()
	status, err := g.Status(ctx)
	if err == nil {
		if status == "io-error" {
			err = g.Continue(ctx)
		}
		return nil, err
	}
	if !errors.Is(err, launch.ErrGone) {
		return nil, err
	}
	spec := launch.Spec{Folder: r.Sockets, Name: r.Name, Isolated: r.Isolated, Memory: r.RAM, CPUs: r.CPUs}
	if len(r.Config) > 0 {
		// What was no QEMU's has another form, and is left out.
		if json.Unmarshal(r.Config, &spec.Config) != nil || spec.Config.Kind != "qemu" {
			spec.Config = machine.Configuration{}
			notes = append(notes, "the configuration kept in the point is not one of QEMU: the guest is a plain machine with its disks")
		}
	}
	for n, d := range r.Disks {
		disk := launch.Disk{Key: d.Key, Socket: r.Socket(), Export: rundirect.ExportName(n)}
		if r.Homes != nil {
			disk.File = r.Homes[n]
		}
		spec.Disks = append(spec.Disks, disk)
	}
	_, more, err := launch.Start(ctx, spec)
	return append(notes, more...), err
}

// Machine is the run's guest, running or not.
func (r *Run) Machine() *launch.Guest { return launch.Find(r.Sockets) }

// End asks the supervisor of a run to leave, and waits until it has. The guest is left alone:
// end it before, or it waits for its disks.
func End(ctx context.Context, r *Run) error {
	c, err := net.Dial("unix", filepath.Join(r.Sockets, stopName))
	if err == nil {
		_ = c.Close()
	} else if r.Running() && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end run: %w", err)
	}
	for r.Running() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the run's supervisor: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
