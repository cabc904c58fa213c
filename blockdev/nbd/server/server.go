package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/millrace-backup/millrace/vdisk"
)

// Disk is what is served. Its methods are called from many goroutines and may take long.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	// Flush returns when all writes that have returned are durable.
	Flush() error
}

// Zeroer is a Disk that makes ranges read as zeros without being sent them.
type Zeroer interface {
	WriteZeroes(off, length int64) error
	Trim(off, length int64) error
}

// Mapper is a Disk that knows which of its ranges are zeros.
type Mapper interface {
	Extents(ctx context.Context, from, to int64) iter.Seq2[vdisk.Extent, error]
}

// Export is a disk and the name that clients know it by.
type Export struct {
	Name        string
	Description string // for people
	Size        int64  // bytes
	Block       int64  // what offsets and lengths have to be multiples of, a power of two up to 4096; 0: 1
	ReadOnly    bool
	Disk        Disk
}

// Options are what is served, and how.
type Options struct {
	Exports []Export
	TLS     *tls.Config // nil: in the clear. With it a client without TLS is refused
	Memory  int64       // bytes of all requests under way; 0: 64 MiB, and no less
}

const (
	maxRequest   = 32 << 20
	leastMemory  = 2 * maxRequest
	greetTime    = 10 * time.Second // for a handshake
	sendTime     = 30 * time.Second // for taking a reply
	partingTime  = 5 * time.Second  // for what is under way when the server ends
	maxName      = 4096
	maxConns     = 256
	maxUnderWay  = 128 // requests of a connection
	maxExtents   = 4096
	requestPrice = 4 << 10 // of memory that a request counts at least
)

// Server serves exports. Make it with New.
type Server struct {
	o       Options
	exports map[string]*Export
	memory  *semaphore.Weighted
	conns   *semaphore.Weighted
}

// New returns a server of these exports.
func New(o Options) (*Server, error) {
	o.Memory = max(o.Memory, leastMemory)
	s := &Server{o: o, exports: map[string]*Export{}, memory: semaphore.NewWeighted(o.Memory), conns: semaphore.NewWeighted(maxConns)}
	for n := range o.Exports {
		e := &o.Exports[n]
		e.Block = cmp.Or(e.Block, 1)
		if s.exports[e.Name] != nil || len(e.Name) > maxName || e.Size < 0 || e.Block < 1 || e.Block > 4096 || e.Block&(e.Block-1) != 0 || e.Size%e.Block != 0 {
			return nil, fmt.Errorf("serve export %q of %d bytes in blocks of %d: it is there twice, or cannot be", e.Name, e.Size, e.Block)
		}
		s.exports[e.Name] = e
	}
	return s, nil
}

// Serve takes connections of l until ctx ends, or l does. It returns when all of them are over.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var talks sync.WaitGroup
	defer talks.Wait()
	defer cancel() // before waiting
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve NBD: %w", err)
		}
		if err != nil { // no descriptors, for now
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !s.conns.TryAcquire(1) {
			_ = c.Close()
			continue
		}
		talks.Go(func() {
			defer s.conns.Release(1)
			s.talk(ctx, c)
		})
	}
}

// talk is the life of a connection.
func (s *Server) talk(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(greetTime))
	early := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	h := &handshake{s: s, conn: raw}
	err := h.run(ctx)
	if !early() || err != nil || h.export == nil {
		return // there is nobody to tell: the client sees the end of its connection
	}
	_ = raw.SetDeadline(time.Time{})
	newSession(s, h, raw).run(ctx)
	if sealed, ok := h.conn.(*tls.Conn); ok {
		_ = sealed.Close()
	}
}
