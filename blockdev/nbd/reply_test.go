package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// What a server may answer to a read of 4 KiB at 8 KiB.
func TestReadReplies(t *testing.T) {
	const off, n = 8 << 10, 4 << 10
	x := strings.Repeat("x", n)
	data := func(at uint64, p string) func(uint64, uint16) []byte {
		return func(c uint64, flags uint16) []byte { return chunkOf(c, wire.ChunkData, flags, at, p) }
	}
	hole := func(at uint64, size uint32) func(uint64, uint16) []byte {
		return func(c uint64, flags uint16) []byte { return chunkOf(c, wire.ChunkHole, flags, at, size) }
	}
	other := func(kind uint16, parts ...any) func(uint64, uint16) []byte {
		return func(c uint64, flags uint16) []byte { return chunkOf(c, kind, flags, parts...) }
	}
	raw := func(parts ...any) func(uint64, uint16) []byte {
		return func(uint64, uint16) []byte { return joined(parts...) }
	}
	long := func(kind uint16, size uint32, parts ...any) func(uint64, uint16) []byte {
		return func(c uint64, flags uint16) []byte {
			return append(joined(uint32(wire.MagicChunk), flags, kind, c, size), joined(parts...)...)
		}
	}
	none := other(wire.ChunkNone)
	for name, c := range map[string]struct {
		chunks []func(cookie uint64, flags uint16) []byte // the last one gets the flag that it is
		want   string
		err    error
	}{
		"one":                     {append(none0, data(off, x)), x, nil},
		"pieces in any order":     {append(none0, data(off+1000, x[1000:]), hole(off+600, 400), data(off, x[:600])), x[:600] + strings.Repeat("\x00", 400) + x[1000:], nil},
		"a hole":                  {append(none0, hole(off, n), none), strings.Repeat("\x00", n), nil},
		"nothing":                 {append(none0, none), "", ErrProtocol},
		"too little":              {append(none0, data(off, x[:n-1])), "", ErrProtocol},
		"a gap":                   {append(none0, data(off, x[:100]), data(off+101, x[101:])), "", ErrProtocol},
		"an overlap":              {append(none0, data(off, x[:101]), data(off+100, x[100:])), "", ErrProtocol},
		"the same twice":          {append(none0, data(off, x), data(off, x)), "", ErrProtocol},
		"too much":                {append(none0, data(off, x+"x")), "", ErrProtocol},
		"before":                  {append(none0, data(off-1, x)), "", ErrProtocol},
		"far away":                {append(none0, data(1<<63+5, x)), "", ErrProtocol},
		"a hole too far":          {append(none0, hole(off+1, n)), "", ErrProtocol},
		"an empty hole":           {append(none0, hole(off, 0), data(off, x)), "", ErrProtocol},
		"empty data":              {append(none0, data(off, ""), data(off, x)), "", ErrProtocol},
		"a huge hole":             {append(none0, hole(off, 1<<32-1)), "", ErrProtocol},
		"huge data":               {append(none0, long(wire.ChunkData, 1<<32-1, uint64(off))), "", ErrProtocol},
		"status":                  {append(none0, other(wire.ChunkStatus, uint32(fakeContext), uint32(n), uint32(0))), "", ErrProtocol},
		"an unknown chunk":        {append(none0, other(1234)), "", ErrProtocol},
		"none that is not last":   {append(none0, none, data(off, x)), "", ErrProtocol},
		"a simple reply":          {append(none0, func(c uint64, _ uint16) []byte { return append(simple(c, 0), x...) }), "", ErrProtocol},
		"a simple one after data": {append(none0, data(off, x), func(c uint64, _ uint16) []byte { return simple(c, EIO) }), "", ErrProtocol},
		"wrong handle":            {append(none0, func(c uint64, fl uint16) []byte { return chunkOf(c+1<<8, wire.ChunkData, fl, uint64(off), x) }), "", ErrProtocol},
		"handle of nobody":        {append(none0, func(uint64, uint16) []byte { return chunkOf(0xff, wire.ChunkData, 1, uint64(off), x) }), "", ErrProtocol},
		"no reply":                {append(none0, raw("not a reply at all, but long enough")), "", ErrProtocol},
		"end inside a head":       {append(none0, raw(uint32(wire.MagicChunk))), "", ErrConnection},
		"end inside data":         {append(none0, long(wire.ChunkData, n+8, uint64(off), x[:99])), "", ErrConnection},
		"refused, simply":         {append(none0, func(c uint64, _ uint16) []byte { return simple(c, EIO) }), "", EIO},
		"refused":                 {append(none0, other(wire.ChunkError, uint32(ENOMEM), uint16(4), "full")), "", ENOMEM},
		"refused after data":      {append(none0, data(off, x), other(wire.ChunkError, uint32(EIO), uint16(0))), "", EIO},
		"data after refused":      {append(none0, other(wire.ChunkErrorOffset, uint32(EIO), uint16(0), uint64(off+n-1)), data(off, x)), "", EIO},
		"the first error counts":  {append(none0, other(wire.ChunkError, uint32(ENOTSUP), uint16(0)), other(wire.ChunkError, uint32(EIO), uint16(0))), "", ENOTSUP},
		"an unknown error":        {append(none0, other(wire.ChunkErrorBit|77, uint32(EOVERFLOW), uint16(1), "x and more")), "", EOVERFLOW},
		"an error outside":        {append(none0, other(wire.ChunkErrorOffset, uint32(EIO), uint16(0), uint64(off+n))), "", ErrProtocol},
		"chunks without end": {append(none0, func(c uint64, _ uint16) []byte {
			return bytes.Repeat(chunkOf(c, wire.ChunkError, 0, uint32(EIO), uint16(0)), maxChunks+1)
		}), "", ErrProtocol},
		"no error":              {append(none0, other(wire.ChunkError, uint32(0), uint16(0))), "", ErrProtocol},
		"an error cut short":    {append(none0, other(wire.ChunkError, uint32(EIO), uint16(9), "short")), "", ErrProtocol},
		"an error of megabytes": {append(none0, long(wire.ChunkError, 64<<20)), "", ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := dialFake(t, HasFlags, 1, func(f fake) {
				a := f.request()
				for i, chunk := range c.chunks {
					flags := uint16(0)
					if i == len(c.chunks)-1 {
						flags = wire.ChunkDone
					}
					f.send(chunk(a.cookie, flags))
				}
				if !errors.As(c.err, new(Errno)) && c.err != nil {
					return
				}
				b := f.request() // the connection goes on
				f.send(chunkOf(b.cookie, wire.ChunkData, wire.ChunkDone, b.off, "y"))
				f.request()
			})
			p := bytes.Repeat([]byte{0xdb}, n)
			got, err := client.ReadAt(p, off)
			if !errors.Is(err, c.err) || c.err == nil && (err != nil || got != n || string(p) != c.want) || c.err != nil && got != 0 {
				t.Fatalf("%d bytes, %v; want error %v", got, err, c.err)
			}
			if err != nil && !strings.Contains(err.Error(), `"disk"`) {
				t.Errorf("%v does not name the export", err)
			}
			_, again := client.ReadAt(p[:1], 0)
			if broken := c.err != nil && !errors.As(c.err, new(Errno)); broken != errors.Is(again, ErrConnection) || broken != (again != nil) {
				t.Errorf("the next read: %v", again)
			}
		})
	}
}

var none0 []func(cookie uint64, flags uint16) []byte

// Replies come in another order than requests, each to who asked.
func TestManyAtOnce(t *testing.T) {
	const readers = 40
	c := dialFake(t, HasFlags, 1, func(f fake) {
		for {
			var all []asked
			for range readers {
				all = append(all, f.request())
			}
			for i := range all { // backwards, in two chunks
				a := all[len(all)-1-i]
				f.send(chunkOf(a.cookie, wire.ChunkHole, 0, a.off, uint32(8)))
			}
			for _, a := range all {
				f.send(chunkOf(a.cookie, wire.ChunkData, wire.ChunkDone, a.off+8, a.off))
			}
		}
	})
	var all sync.WaitGroup
	for i := range uint64(readers) {
		all.Go(func() {
			for n := range uint64(10) {
				p, off := make([]byte, 16), (i*10+n)*16
				if _, err := c.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, joined(uint64(0), off)) {
					t.Errorf("at %d: %x, %v", off, p, err)
				}
			}
		})
	}
	all.Wait()
}

// A long read is split at the server's limit and several parts are under way; what came
// before the first that failed is told of.
func TestSplit(t *testing.T) {
	const limit = 64 << 10
	c := dialFake(t, HasFlags, 1, func(f fake) {
		var under []asked
		for range ahead {
			under = append(under, f.request())
		}
		for len(under) > 0 {
			a := under[0]
			if under = under[1:]; a.length > limit {
				f.send(simple(a.cookie, EINVAL))
			} else if a.off >= 9*limit {
				f.send(simple(a.cookie, EIO))
			} else {
				f.send(chunkOf(a.cookie, wire.ChunkData, wire.ChunkDone, a.off, bytes.Repeat([]byte{byte(a.off / limit)}, int(a.length))))
				under = append(under, f.request())
			}
		}
		f.request()
	})
	p := make([]byte, fakeSize)
	n, err := c.ReadAt(p, 0)
	if n != 9*limit || !errors.Is(err, EIO) {
		t.Fatal(n, err)
	}
	for i, b := range p[:n] {
		if b != byte(i/limit) {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}

// Those whose reads are split do not wait for each other.
func TestManySplit(t *testing.T) {
	t.Parallel()
	c := dialFake(t, HasFlags, 1, func(f fake) {
		for {
			a := f.request()
			f.send(chunkOf(a.cookie, wire.ChunkHole, wire.ChunkDone, a.off, a.length))
		}
	})
	var all sync.WaitGroup
	for range 2 * parallel {
		all.Go(func() {
			p := bytes.Repeat([]byte{0xdb}, 512<<10)
			if _, err := c.ReadAt(p, 0); err != nil || bytes.Count(p, []byte{0}) != len(p) {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// Who reads inside a block gets what is in it.
func TestBlocks(t *testing.T) {
	const block = 4096
	disk := make([]byte, fakeSize)
	for i := range disk {
		disk[i] = byte(i * 7 / 5)
	}
	c := dialFake(t, HasFlags, block, func(f fake) {
		for {
			a := f.request()
			if a.off%block != 0 || a.length%block != 0 || a.length == 0 {
				f.send(simple(a.cookie, EINVAL))
				continue
			}
			f.send(chunkOf(a.cookie, wire.ChunkData, wire.ChunkDone, a.off, disk[a.off:a.off+uint64(a.length)]))
		}
	})
	for _, at := range []struct{ off, n int64 }{{0, 1}, {0, block}, {1, block}, {1, block - 1}, {block - 1, 2}, {5, 3*block + 7}, {fakeSize - 5, 5}, {100, 300 << 10}} {
		p := make([]byte, at.n)
		if n, err := c.ReadAt(p, at.off); err != nil || int64(n) != at.n || !bytes.Equal(p, disk[at.off:at.off+at.n]) {
			t.Errorf("%d at %d: %d, %v", at.n, at.off, n, err)
		}
	}
	if n, err := c.ReadAt(make([]byte, 9), fakeSize-5); n != 5 || err != io.EOF {
		t.Error(n, err)
	}
}

// A server that falls silent fails everybody, whatever they wait for.
func TestSilence(t *testing.T) {
	t.Parallel()
	c := dialFake(t, HasFlags|CanFlush, 1, func(f fake) { f.read(1 << 20) })
	c.o.Timeout = 100 * time.Millisecond // not of the handshake, which may be slow where much runs
	var all sync.WaitGroup
	late := func(what string, err error) {
		if !errors.Is(err, ErrConnection) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 2 * parallel {
		all.Go(func() {
			_, err := c.ReadAt(make([]byte, 10), int64(i))
			late("a read", err)
		})
	}
	all.Go(func() { late("a flush", c.Flush()) })
	all.Go(func() {
		_, err := statusOf(c, Allocation, 0, 10)
		late("a status", err)
	})
	all.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	_, err := c.ReadAt(make([]byte, 1), 0)
	late("after Close", err)
}

// Going away while a status is asked for leaves the connection to the others.
func TestCancelledStatus(t *testing.T) {
	var answer sync.WaitGroup
	answer.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	c := dialFake(t, HasFlags, 1, func(f fake) {
		a := f.request()
		cancel()
		answer.Wait()
		f.send(chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, uint32(fakeContext), uint32(1<<20), uint32(0)))
		a = f.request()
		f.send(chunkOf(a.cookie, wire.ChunkData, wire.ChunkDone, a.off, "x"))
		f.request()
	})
	for _, err := range c.BlockStatus(ctx, Allocation, 0, fakeSize) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	answer.Done()
	if n, err := c.ReadAt(make([]byte, 1), 5); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// Close ends what is under way, also where the server reads nothing.
func TestCloseBusy(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	defer close(stop)
	reading := make(chan struct{})
	c := dialFake(t, HasFlags|CanFUA, 1, func(f fake) {
		_ = f.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		f.request()
		close(reading)
		<-stop
	})
	_ = c.raw.(*net.TCPConn).SetWriteBuffer(4 << 10)
	var all sync.WaitGroup
	for i := range 100 { // more than are ever under way, and more than the sockets take
		all.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = c.WriteAt(make([]byte, fakeSize), 0)
			} else {
				_, err = c.ReadAt(make([]byte, fakeSize), 0)
			}
			if !errors.Is(err, ErrConnection) {
				t.Error(err)
			}
		})
	}
	<-reading
	began := time.Now()
	if err := c.Close(); err != nil || time.Since(began) > 30*time.Second { // a request has a minute
		t.Error(err, time.Since(began))
	}
	all.Wait()
	if err := c.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestErrnos(t *testing.T) {
	for _, n := range []Errno{EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN, 4711} {
		err := fmt.Errorf("read: %w", n)
		var got Errno
		if !errors.Is(err, n) || errors.Is(err, n+1) || !errors.As(err, &got) || got != n || n.Error() == "" {
			t.Error(err)
		}
	}
}
