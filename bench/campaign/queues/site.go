package queues

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// site is a nats-server and a client of it that may do anything.
type site struct {
	program string
	folder  string
	port    int
	server  *exec.Cmd
	nc      *nats.Conn
	js      jetstream.JetStream

	mu   sync.Mutex
	seen []*nats.Msg // what the job has sent, up to a limit
}

// mostSeen bounds what is remembered of a job's messages.
const mostSeen = 64

func newSite(ctx context.Context, program, folder string) (*site, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &site{program: program, folder: folder, port: l.Addr().(*net.TCPAddr).Port}
	if err := l.Close(); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("listen: 127.0.0.1:%d\nmax_payload: 8MB\njetstream { store_dir: %q, max_mem: 1GB }\nauthorization { user: mill, password: secret }\n", s.port, s.path("js"))
	if err := errors.Join(os.WriteFile(s.path("nats.conf"), []byte(conf), 0o600), os.WriteFile(s.path("nats.login"), []byte("mill:secret\n"), 0o600)); err != nil {
		return nil, err
	}
	if err := s.serve(ctx); err != nil {
		return nil, err
	}
	s.nc, err = nats.Connect(s.url(), nats.UserInfo("mill", "secret"), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err == nil {
		s.js, err = jetstream.New(s.nc)
	}
	if err == nil {
		err = os.CopyFS(s.path("js.before"), os.DirFS(s.path("js")))
	}
	for _, subjects := range []string{"j.*.*", "b.*.*"} {
		if err == nil {
			_, err = s.nc.Subscribe(subjects, s.remember)
		}
	}
	if err == nil {
		err = s.nc.Flush()
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *site) path(name string) string { return filepath.Join(s.folder, name) }

func (s *site) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

func (s *site) args() []string {
	return []string{"--nats", s.url(), "--nats-credentials", s.path("nats.login")}
}

// remember keeps a message of the job.
func (s *site) remember(m *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < mostSeen {
		s.seen = append(s.seen, m)
	}
}

// sent are messages that the job has sent.
func (s *site) sent() []*nats.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*nats.Msg(nil), s.seen...)
}

// serve starts the server and waits until it listens.
func (s *site) serve(ctx context.Context) error {
	s.server = exec.Command(s.program, "-c", s.path("nats.conf"))
	if err := s.server.Start(); err != nil {
		return err
	}
	for since := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			return c.Close()
		}
		if time.Since(since) > 20*time.Second || ctx.Err() != nil {
			return fmt.Errorf("nats-server does not listen: %w", err)
		}
	}
}

// kill ends the server at once.
func (s *site) kill() error {
	err := s.server.Process.Kill()
	_ = s.server.Wait() // it was killed, says the error
	return err
}

// stop ends all.
func (s *site) stop() {
	if s.nc != nil {
		s.nc.Close()
	}
	_ = s.kill() // else it has ended before
}
