package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// Job is what can be asked of a job. Tune carries an order out whole, or changes
// nothing and says why in a *flow.Fault.
type Job interface {
	Report() board.Report
	Tune(Order) ([]Change, error)
}

// Bounds of a conversation.
const (
	patience = 5 * time.Second // with a client that does not write, or read
	again    = 5 * time.Second // after which watchers are told the same once more
	silence  = 6 * again       // after which a client gives up a job that says nothing
	maxConns = 32
)

// Server is the socket of one job.
type Server struct {
	id     id.Job
	job    Job
	folder string
	in     *net.UnixListener
	served chan struct{} // closed when nobody is let in any more
	talks  sync.WaitGroup
	places chan struct{}

	mu   sync.Mutex
	news chan struct{} // closed when there is a newer report
	last board.Report
	over bool // last is the last one
}

// Listen makes the socket in a job's folder and serves it.
func Listen(folder string, id id.Job, job Job) (*Server, error) {
	l, err := listen(folder)
	if err != nil {
		return nil, fmt.Errorf("make the job's socket: %w", err)
	}
	s := &Server{id: id, job: job, folder: folder, in: l, served: make(chan struct{}), places: make(chan struct{}, maxConns), news: make(chan struct{}), last: job.Report()}
	go s.serve()
	return s, nil
}

func (s *Server) serve() {
	defer close(s.served)
	for {
		c, err := s.in.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors, for now
			time.Sleep(100 * time.Millisecond)
			continue
		}
		select {
		case s.places <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		s.talks.Go(func() {
			defer func() { <-s.places }()
			defer c.Close()
			s.talk(c)
		})
	}
}

// Publish gives watchers something new. It never waits for one.
func (s *Server) Publish(r board.Report) { s.publish(r, false) }

func (s *Server) publish(r board.Report, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.last, s.over = r, last
	close(s.news)
	s.news = make(chan struct{})
}

// Close takes the socket away and then tells watchers how it ended: who has been told
// does not find the job any more.
func (s *Server) Close(last board.Report) {
	_ = os.Remove(filepath.Join(s.folder, SocketName))
	_ = s.in.Close()
	s.publish(last, true)
	<-s.served
	s.talks.Wait() // each is bounded
}

func (s *Server) talk(c *net.UnixConn) {
	say := func(v any) bool {
		b, err := json.Marshal(v)
		if err != nil {
			return false
		}
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		_, err = c.Write(append(b, '\n'))
		return err == nil
	}
	by, may := peer(c)
	if !may {
		say(refusal{"error", "not-permitted", "use job", s.id.String(), "it is another user's", "run this as the user that runs the job"})
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	q, err := readRequest(c)
	if err != nil {
		say(refusal{"error", "usage", "ask job", s.id.String(), err.Error(), "use the same version of millrace as the job"})
		return
	}
	switch q.Do {
	case "report":
		say(s.job.Report())
	case "watch":
		s.watch(say)
	case "tune":
		if by == "" {
			by = q.By
		}
		changes, err := s.job.Tune(Order{Stages: q.Stages, By: by, Why: q.Why})
		if err != nil {
			say(refuse(flow.AsFault(err, "conductor")))
			return
		}
		say(Tuned{"tuned", s.id, changes})
	}
}

// watch says every report until the last. A client that has gone is noticed at the
// next one.
func (s *Server) watch(say func(any) bool) {
	first := s.job.Report()
	for {
		s.mu.Lock()
		r, over, news := s.last, s.over, s.news
		s.mu.Unlock()
		if first.Type != "" && !over {
			r, first = first, board.Report{}
		}
		if !say(r) || over {
			return
		}
		select {
		case <-news:
		case <-time.After(again):
		}
	}
}
