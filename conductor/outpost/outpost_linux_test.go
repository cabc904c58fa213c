package outpost_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tools are the program and the NATS server, built from their modules.
var tools = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "millrace-outpost-")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(folder, "millrace"), "../../cmd/millrace").CombinedOutput(); err != nil {
		return folder, fmt.Errorf("build millrace: %w: %s", err, out)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(folder, "nats-server"), "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		return folder, fmt.Errorf("build nats-server: %w: %s", err, out)
	}
	return folder, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if folder, _ := tools(); folder != "" {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}

// site is a NATS server, a vault and a disk.
type site struct {
	t      *testing.T
	tools  string
	folder string
	port   int
	server *exec.Cmd
}

func newSite(t *testing.T, size int) *site {
	t.Helper()
	folder, err := tools()
	if err != nil {
		t.Skip("the nats-server binary is needed, from its module:", err)
	}
	s := &site{t: t, tools: folder, folder: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	s.write("nats.conf", fmt.Appendf(nil, "listen: 127.0.0.1:%d\nmax_payload: 8MB\njetstream { store_dir: %q, max_mem: 1GB }\nauthorization { user: mill, password: \"a secret\" }\n", s.port, s.path("js")))
	s.write("nats.login", []byte("mill:a secret\n"))
	s.write("password", []byte("secret\n"))
	image := make([]byte, size)
	noise := rand.NewChaCha8([32]byte{7})
	for at := 0; at < size; at += 1 << 20 { // a third of it compresses to nothing
		if at>>20%3 != 0 {
			_, _ = noise.Read(image[at:min(size, at+1<<20)])
		} else {
			copy(image[at:], fmt.Appendf(nil, "block at %d", at))
		}
	}
	s.write("disk.raw", image)
	s.serve()
	s.run("init", s.path("vault"))
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.folder, name) }

func (s *site) write(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// serve starts the NATS server and waits until it listens.
func (s *site) serve() {
	s.t.Helper()
	s.server = exec.Command(filepath.Join(s.tools, "nats-server"), "-c", s.path("nats.conf"))
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	server := s.server
	s.t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	for since := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			c.Close()
			return
		}
		if time.Since(since) > 20*time.Second {
			s.t.Fatal("nats-server does not listen")
		}
	}
}

func (s *site) command(state string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.tools, "millrace"), args...)
	c.Dir = s.folder
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+s.path("vault"), "MILLRACE_PASSWORD_FILE="+s.path("password"), "MILLRACE_STATE="+s.path(state))
	return c
}

func (s *site) elsewhere(args ...string) []string {
	return append(args, "--nats", fmt.Sprintf("nats://127.0.0.1:%d", s.port), "--nats-credentials", s.path("nats.login"))
}

func (s *site) run(args ...string) string {
	s.t.Helper()
	out, err := s.command("state", args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("millrace %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pool starts millrace worker by hand, as on a machine of its own; said is what it
// tells.
func (s *site) pool(name string, args ...string) (c *exec.Cmd, said *lines) {
	s.t.Helper()
	c = s.command("state-"+name, s.elsewhere(append([]string{"worker"}, args...)...)...)
	said = &lines{}
	c.Stderr = said
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	s.until("pool "+name+" serves", func() bool { return said.has("serving ") })
	return c, said
}

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.Write(b) }

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

func (s *site) until(what string, is func() bool) {
	s.t.Helper()
	for since := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(since) > 60*time.Second {
			s.t.Fatal("not within a minute:", what)
		}
	}
}

// told is a line of backup --json.
type told struct {
	Type    string  `json:"type"`
	Done    int64   `json:"done_bytes"`
	Total   int64   `json:"total_bytes"`
	Outcome string  `json:"outcome"`
	Job     string  `json:"job"`
	Cause   string  `json:"cause"`
	Seconds float64 `json:"duration_s"`
}

// backup runs a job and calls each for its status lines. It returns the summary.
func (s *site) backup(each func(told), args ...string) told {
	s.t.Helper()
	c := s.command("state", append([]string{"backup", "--json", s.path("disk.raw")}, args...)...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	limit := time.AfterFunc(5*time.Minute, func() { _ = c.Process.Kill() })
	defer limit.Stop()
	var last told
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadBytes('\n')
		var l told
		if json.Unmarshal(line, &l) == nil {
			each(l)
			last = l
			if l.Type == "error" {
				s.t.Logf("%s", line)
			}
		}
		if err == io.EOF {
			break
		}
	}
	if err := c.Wait(); err != nil {
		s.t.Errorf("backup: %v", err)
	}
	if last.Outcome != "done" {
		s.t.Fatalf("outcome %q", last.Outcome)
	}
	return last
}

func (s *site) check() {
	s.t.Helper()
	s.run("restore", "latest", "--to", s.path("restored.raw"), "--force")
	got, err := os.ReadFile(s.path("restored.raw"))
	if err != nil {
		s.t.Fatal(err)
	}
	want, err := os.ReadFile(s.path("disk.raw"))
	if err != nil {
		s.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		s.t.Fatal("the restored disk differs")
	}
}

// Two pools started by hand do all the sealing of a job, between them and the
// conductor a real nats-server. One is killed in the middle: the other goes on with
// what it held.
func TestPoolsTakePart(t *testing.T) {
	s := newSite(t, 192<<20)
	a, saidA := s.pool("a", "--stages", "seal")
	_, saidB := s.pool("b", "--stages", "seal,chunker", "--parallel", "seal=2")
	killed := false
	sum := s.backup(func(l told) {
		if !killed && l.Type == "status" && l.Total > 0 && l.Done < l.Total {
			if err := a.Process.Kill(); err != nil {
				t.Error(err)
			}
			killed = true
		}
	}, s.elsewhere("--remote", "seal,chunker", "--parallel", "seal=0,chunker=0")...)
	if !killed {
		t.Log("the job was over before a pool could be killed")
	}
	if !saidA.has(": seal (worker 1048577,") && !saidB.has(": seal (worker 1048577,") {
		t.Error("no pool has the first block of numbers")
	}
	s.check()
	facts := s.run("audit", "show", sum.Job, "--json")
	if !strings.Contains(facts, `"inline"`) {
		t.Error("the ledger does not say that bytes travelled inline")
	}
	s.until("the other pool leaves the job", func() bool { return saidB.has(": over") })
	// The next job finds it at its post.
	s.backup(func(told) {}, s.elsewhere("--remote", "seal,chunker", "--parallel", "seal=0,chunker=0", "--scan", "full")...)
}

// The server is killed in the middle of a job and started anew: its memory is gone,
// the job makes its queues again, reads again what was in them, and ends well.
func TestServerIsKilledInMidJob(t *testing.T) {
	s := newSite(t, 192<<20)
	var over atomic.Bool
	killed := make(chan bool)
	go func() {
		hit := false
		for !hit && !over.Load() {
			time.Sleep(time.Millisecond)
			begun, _ := filepath.Glob(filepath.Join(s.path("vault"), "tmp", "*"))
			for _, file := range begun { // a pack, of which some is there
				st, err := os.Stat(file)
				hit = hit || err == nil && st.Size() > 1<<20
			}
		}
		if hit {
			_ = s.server.Process.Kill()
			_ = s.server.Wait()
			s.serve()
		}
		killed <- hit
	}()
	s.backup(func(told) {}, s.elsewhere("--parallel", "seal=1", "--codec", "zstd")...)
	over.Store(true)
	if !<-killed {
		t.Error("the job was over before the server could be killed")
	}
	s.check()
}
