package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
	"github.com/millrace-backup/millrace/vdisk"
)

// session is an open export on a connection.
type session struct {
	*handshake
	raw   net.Conn
	share *semaphore.Weighted // of the server's memory
	turns chan struct{}       // a place for each request under way
	under sync.WaitGroup
	spare sync.Pool // of *request

	send sync.Mutex
	head [48]byte // of the reply that is being sent
	out  [2][]byte
}

// request is one that is under way.
type request struct {
	flags, kind uint16
	cookie      uint64
	off, length int64
	price       int64
	data        []byte // of a write, or for a read
}

func newSession(s *Server, h *handshake, raw net.Conn) *session {
	x := &session{handshake: h, raw: raw, share: semaphore.NewWeighted(s.o.Memory / 2), turns: make(chan struct{}, maxUnderWay)}
	x.spare.New = func() any { return &request{} }
	return x
}

// run answers requests until the client leaves, breaks the protocol, or ctx ends. What is
// under way then is answered if it does not take too long.
func (x *session) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = x.raw.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	_ = x.requests(ctx, work)
	late := time.AfterFunc(partingTime, func() { cancel(); _ = x.raw.Close() })
	x.under.Wait()
	late.Stop()
}

func (x *session) requests(ctx, work context.Context) error {
	var b [wire.RequestSize]byte
	for {
		if _, err := io.ReadFull(x.conn, b[:]); err != nil {
			return err
		}
		r := x.spare.Get().(*request)
		r.flags, r.kind = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		r.cookie, r.off, r.length = binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint64(b[16:])), int64(binary.BigEndian.Uint32(b[24:]))
		if binary.BigEndian.Uint32(b[:]) != wire.MagicAsk {
			return broken("request %x", b)
		}
		if r.kind == wire.CmdDisc {
			return nil
		}
		if r.kind == wire.CmdWrite && r.length > maxRequest {
			return broken("a write of %d bytes", r.length) // it would have to be read to its end
		}
		if err := x.admit(ctx, r); err != nil {
			return err
		}
		if r.kind == wire.CmdWrite {
			if _, err := io.ReadFull(x.conn, r.data); err != nil {
				x.release(r)
				return err
			}
		}
		x.under.Go(func() {
			defer x.release(r)
			x.answer(work, r)
		})
	}
}

// admit waits for a place and the memory that a request takes.
func (x *session) admit(ctx context.Context, r *request) error {
	select {
	case x.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	n := int64(0)
	if r.kind == wire.CmdWrite || r.kind == wire.CmdRead && r.length <= maxRequest {
		n = r.length
	}
	r.price = max(n, requestPrice)
	err := x.share.Acquire(ctx, r.price)
	if err == nil {
		if err = x.s.memory.Acquire(ctx, r.price); err != nil {
			x.share.Release(r.price)
		}
	}
	if err != nil {
		<-x.turns
		return err
	}
	r.data = slices.Grow(r.data[:0], int(n))[:n]
	return nil
}

func (x *session) release(r *request) {
	x.s.memory.Release(r.price)
	x.share.Release(r.price)
	if cap(r.data) > 1<<20 {
		r.data = nil // of a rare giant
	}
	x.spare.Put(r)
	<-x.turns
}

// answer does what is asked, and says so.
func (x *session) answer(ctx context.Context, r *request) {
	err := x.check(r)
	if err == 0 {
		switch r.kind {
		case wire.CmdRead:
			n, failed := x.export.Disk.ReadAt(r.data, r.off)
			if n == len(r.data) {
				failed = nil // io.EOF, where the disk ends
			}
			if err = errnoOf(failed); err == 0 {
				x.sendData(r)
				return
			}
		case wire.CmdStatus:
			x.status(ctx, r)
			return
		default:
			err = errnoOf(x.change(r))
		}
	}
	x.sendResult(r, err)
}

// change is a request that has no answer but success.
func (x *session) change(r *request) error {
	disk := x.export.Disk
	var err error
	switch r.kind {
	case wire.CmdWrite:
		_, err = disk.WriteAt(r.data, r.off)
	case wire.CmdFlush:
		return disk.Flush()
	case wire.CmdTrim:
		err = disk.(Zeroer).Trim(r.off, r.length)
	case wire.CmdZeroes:
		err = disk.(Zeroer).WriteZeroes(r.off, r.length)
	}
	if err == nil && r.flags&wire.FlagFUA != 0 {
		err = disk.Flush()
	}
	return err
}

// check is what is wrong with a request; 0 if nothing is.
func (x *session) check(r *request) nbd.Errno {
	e := x.export
	_, zeroes := e.Disk.(Zeroer)
	may, known := flagsOf(r.kind)
	switch {
	case !known, r.flags&^may != 0:
		return nbd.EINVAL
	case r.kind == wire.CmdFlush:
		return 0
	case e.ReadOnly && r.kind != wire.CmdRead && r.kind != wire.CmdStatus:
		return nbd.EPERM
	case (r.kind == wire.CmdTrim || r.kind == wire.CmdZeroes) && !zeroes, r.kind == wire.CmdStatus && (!x.contexts || r.length == 0):
		return nbd.EINVAL
	case r.off < 0 || r.length > e.Size || r.off > e.Size-r.length:
		if r.kind == wire.CmdWrite || r.kind == wire.CmdZeroes {
			return nbd.ENOSPC
		}
		return nbd.EINVAL
	case (r.off|r.length)&(e.Block-1) != 0, r.kind == wire.CmdRead && r.length > maxRequest:
		return nbd.EINVAL
	}
	return 0
}

// flagsOf says which flags a command may have, and whether there is one.
func flagsOf(kind uint16) (may uint16, known bool) {
	switch kind {
	case wire.CmdRead:
		return wire.FlagDF | wire.FlagFUA, true
	case wire.CmdWrite, wire.CmdFlush, wire.CmdTrim:
		return wire.FlagFUA, true
	case wire.CmdZeroes:
		return wire.FlagFUA | wire.FlagNoHole | wire.FlagFastZero, true
	case wire.CmdStatus:
		return wire.FlagReqOne, true
	}
	return 0, false
}

// status tells which parts of a range are zeros.
func (x *session) status(ctx context.Context, r *request) {
	body := binary.BigEndian.AppendUint32(nil, allocation)
	n := 0
	for e, err := range x.export.Disk.(Mapper).Extents(ctx, r.off, r.off+r.length) {
		if err != nil && n == 0 {
			x.sendResult(r, errnoOf(err))
			return
		}
		if err != nil || n == maxExtents {
			break // what is known is an answer
		}
		flags := uint32(0)
		if e.Kind == vdisk.Zero {
			flags = nbd.Hole | nbd.Zero
		}
		body = binary.BigEndian.AppendUint32(body, uint32(e.Length))
		body = binary.BigEndian.AppendUint32(body, flags)
		if n++; r.flags&wire.FlagReqOne != 0 {
			break
		}
	}
	x.sendChunk(r, wire.ChunkStatus, body)
}

func (x *session) sendData(r *request) {
	if !x.structured {
		x.sendSimple(r, 0, r.data)
		return
	}
	x.send.Lock()
	defer x.send.Unlock()
	h := x.chunkHead(r, wire.ChunkData, len(r.data)+8)
	x.write(binary.BigEndian.AppendUint64(h, uint64(r.off)), r.data)
}

// sendResult says that something is done, or why not.
func (x *session) sendResult(r *request, err nbd.Errno) {
	switch {
	case !x.structured:
		x.sendSimple(r, err, nil)
	case err != 0:
		body := binary.BigEndian.AppendUint32(nil, uint32(err))
		x.sendChunk(r, wire.ChunkError, binary.BigEndian.AppendUint16(body, 0))
	case r.kind == wire.CmdRead: // of no bytes
		x.sendChunk(r, wire.ChunkNone, nil)
	default:
		x.sendSimple(r, 0, nil)
	}
}

func (x *session) sendSimple(r *request, err nbd.Errno, data []byte) {
	x.send.Lock()
	defer x.send.Unlock()
	h := binary.BigEndian.AppendUint32(x.head[:0], wire.MagicSimple)
	h = binary.BigEndian.AppendUint32(h, uint32(err))
	x.write(binary.BigEndian.AppendUint64(h, r.cookie), data)
}

func (x *session) sendChunk(r *request, kind uint16, body []byte) {
	x.send.Lock()
	defer x.send.Unlock()
	x.write(x.chunkHead(r, kind, len(body)), body)
}

func (x *session) chunkHead(r *request, kind uint16, length int) []byte {
	h := binary.BigEndian.AppendUint32(x.head[:0], wire.MagicChunk)
	h = binary.BigEndian.AppendUint16(h, wire.ChunkDone)
	h = binary.BigEndian.AppendUint16(h, kind)
	h = binary.BigEndian.AppendUint64(h, r.cookie)
	return binary.BigEndian.AppendUint32(h, uint32(length))
}

// write sends a reply. One that is not taken in time is the end of the connection: half of it
// may be there.
func (x *session) write(head, data []byte) {
	_ = x.raw.SetWriteDeadline(time.Now().Add(sendTime))
	x.out = [2][]byte{head, data}
	b := net.Buffers(x.out[:])
	if len(data) == 0 {
		b = b[:1]
	}
	if _, err := b.WriteTo(x.conn); err != nil {
		_ = x.raw.Close()
	}
	x.out = [2][]byte{}
}

// errnoOf is what a client is told of an error.
func errnoOf(err error) nbd.Errno {
	var known nbd.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &known):
		return known
	case full(err):
		return nbd.ENOSPC
	case errors.Is(err, syscall.EINVAL):
		return nbd.EINVAL
	case errors.Is(err, context.Canceled), errors.Is(err, fs.ErrClosed), errors.Is(err, net.ErrClosed):
		return nbd.ESHUTDOWN
	}
	return nbd.EIO
}
