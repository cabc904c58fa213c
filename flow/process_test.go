//go:build linux

package flow_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/pipe"
)

// When the test binary is started as a worker it is one: settings and control
// come through its standard input, the arena is inherited.
func TestMain(m *testing.M) {
	if os.Getenv("FLOW_TEST_WORKER") != "" {
		if err := workerProcess(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func workerProcess() error {
	control := bufio.NewReader(os.Stdin)
	cfg, err := pipe.Read(control)
	if err != nil {
		return err
	}
	w, err := flow.Connect(context.Background(), cfg, control)
	if err != nil {
		return err
	}
	pools := map[string]arena.Pool{flow.Reader: arena.Raw, flow.Seal: arena.Sealed}
	return errors.Join(w.Pump(context.Background(), pools[cfg.Stage], stepOf(w)), w.Close())
}

// stepOf is each stage's work in small: bytes that tell whose they are.
func stepOf(w *flow.Worker) flow.Step {
	return func(_ context.Context, d *flow.Delivery, slot arena.Slot) (string, *flow.Parcel, error) {
		p := d.Parcel
		raw := fmt.Appendf(nil, "parcel %d;", p.Number)
		switch w.Config.Stage {
		case flow.Reader:
			b := w.Arena.Bytes(slot.Number)
			for at := 0; at < len(b); {
				at += copy(b[at:], raw)
			}
			p.Claim = slot.Claim(len(b))
			return flow.Chunker, p, nil
		case flow.Chunker:
			if !d.Live() {
				return "", nil, nil
			}
			return flow.Delta, p, nil
		case flow.Delta:
			return flow.Seal, p, nil
		}
		if !d.Live() {
			return "", nil, nil
		}
		n := copy(w.Arena.Bytes(slot.Number), d.Bytes())
		if !d.Live() {
			return "", nil, nil
		}
		p.Claim = slot.Claim(n)
		return flow.Uploader, p, nil
	}
}

// process is a worker in a process of its own.
type process struct {
	stage   string
	number  uint32
	cmd     *exec.Cmd
	control io.WriteCloser
	errs    *bytes.Buffer
}

func (j *job) spawn(stage string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cfg := j.config(stage)
	p := &process{stage: stage, number: cfg.Worker, cmd: exec.Command(exe), errs: &bytes.Buffer{}}
	p.cmd.Env = append(os.Environ(), "FLOW_TEST_WORKER=1", "GOMAXPROCS=1")
	p.cmd.Stderr = p.errs
	cfg.Arena = j.arena.Inherit(p.cmd)
	if p.control, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, pipe.Write(p.control, cfg)
}

// reap waits for the process and frees what it was filling, in this order.
func (p *process) reap(j *job) error {
	err := p.cmd.Wait()
	j.arena.Reap(p.number)
	return err
}

// The conductor's death is the end of its workers, whatever they are doing.
func TestEndOfPipeEndsTheProcess(t *testing.T) {
	j := newJob(t)
	p, err := j.spawn(flow.Chunker)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker is at work", func() bool { return j.lastWord(p.number).PID == p.cmd.Process.Pid })
	if err := p.control.Close(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := waitFor(t, p); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("it ended with %v (%s)", err, p.errs)
	}
	// One that is asked to leave first leaves in good order.
	if p, err = j.spawn(flow.Chunker); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p.control, flow.Drain+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(t, p); err != nil {
		t.Errorf("drained, it ended with %v (%s)", err, p.errs)
	}
	if !j.lastWord(p.number).Final {
		t.Error("it left without its last word")
	}
}

func waitFor(t *testing.T, p *process) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-done
		t.Fatal("it does not end")
		return nil
	}
}

// A worker that dies before it has its settings, or gets none that make sense, ends.
func TestNoSettings(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{"", "\x05", "\xff\xff\xff\xff", "\x02\x00\x00\x00no"} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "FLOW_TEST_WORKER=1")
		cmd.Stdin = bytes.NewReader([]byte(in))
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("read settings from the conductor")) {
			t.Errorf("settings %q: %v, %s", in, err, out)
		}
	}
}

// Four stages of processes, of which one after the other is killed in the middle
// of its work: every parcel arrives, with its own bytes, and no slot is lost.
func TestKilledWorkers(t *testing.T) {
	for _, transport := range []string{flow.Claim, flow.Inline} {
		t.Run(transport, func(t *testing.T) { killedWorkers(t, newJobOf(t, flow.Work{Transport: transport})) })
	}
}

func killedWorkers(t *testing.T, j *job) {
	const parcels, kills = 600, 10
	stages := []string{flow.Reader, flow.Chunker, flow.Delta, flow.Seal}
	var crew []*process
	for _, stage := range stages {
		p, err := j.spawn(stage)
		if err != nil {
			t.Fatal(err)
		}
		crew = append(crew, p)
	}
	plan := j.start(flow.Snapshot)
	var g sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.Go(func() {
		for i := range parcels {
			if err := plan.Send(ctx, flow.Reader, parcel(i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	up := j.start(flow.Uploader)
	seen := map[uint32]int{}
	killed := 0
	for len(seen) < parcels {
		d := up.next(t)
		p := d.Parcel
		if d.Live() {
			want := fmt.Appendf(nil, "parcel %d;", p.Number)
			if b := d.Bytes(); len(b) != shape.RawSize || bytes.Count(b, want) != len(b)/len(want) {
				t.Errorf("%s has other bytes: %.40q", p, b)
			}
			seen[p.Number]++
		}
		out := *p
		out.Claim = arena.Claim{}
		if err := up.Forward(ctx, d, flow.Indexer, &flow.Message{Parcel: &out}); err != nil {
			t.Fatal(err)
		}
		j.makeRoom(flow.Indexer, 1)
		if len(seen) > (killed+1)*parcels/(kills+2) && killed < kills {
			n := killed % len(crew)
			killed++
			_ = crew[n].cmd.Process.Kill() // the others go on meanwhile
			_ = crew[n].reap(j)
			heir, err := j.spawn(crew[n].stage)
			if err != nil {
				t.Fatal(err)
			}
			crew[n] = heir
		}
	}
	g.Wait()
	// Late copies: a worker killed between publishing and acknowledging leaves two.
	eventually(t, "all queues run empty", func() bool {
		if d, _ := up.TryNext(ctx, time.Millisecond); d != nil {
			j.arena.Release(d.Parcel.Claim)
			if err := d.Done(); err != nil {
				t.Error(err)
			}
		}
		n, err := flow.Depths(ctx, j.js, j.id, &j.work)
		return err == nil && n[flow.Reader]+n[flow.Chunker]+n[flow.Delta]+n[flow.Seal]+n[flow.Uploader] == 0
	})
	for _, p := range crew {
		_ = p.cmd.Process.Kill()
		_ = p.reap(j)
	}
	j.wantUsage(arena.Raw, shape.RawSlots, 0, 0)
	j.wantUsage(arena.Sealed, shape.SealedSlots, 0, 0)
	twice := 0
	for _, n := range seen {
		twice += n - 1
	}
	t.Logf("%d workers killed, %d parcels arrived more than once", killed, twice)
}
