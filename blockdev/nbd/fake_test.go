package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// fake is a server's end of one connection, which does what a test tells it to.
type fake struct{ net.Conn }

// serve returns a dialler of a server that does what script says for each connection, and
// then closes it.
func serve(t *testing.T, script func(f fake)) func(context.Context) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				script(fake{conn})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

// read returns n bytes of what the client sends. The script ends where there are none.
func (f fake) read(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(f, b); err != nil {
		runtime.Goexit()
	}
	return b
}

// send sends numbers of their own size, strings and bytes.
func (f fake) send(parts ...any) {
	if _, err := f.Write(joined(parts...)); err != nil {
		runtime.Goexit()
	}
}

func joined(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		case int:
			panic("a number without size")
		default:
			var err error
			if b, err = binary.Append(b, binary.BigEndian, p); err != nil {
				panic(err)
			}
		}
	}
	return b
}

// The beginning of a server that knows options.
func (f fake) greet() {
	f.send(uint64(wire.MagicHello), uint64(wire.MagicOption), uint16(wire.FlagFixed|wire.FlagNoZeroes))
	f.read(4)
}

func (f fake) option() (number uint32, data []byte) {
	h := f.read(16)
	return binary.BigEndian.Uint32(h[8:]), f.read(int(binary.BigEndian.Uint32(h[12:])))
}

func replyTo(option, kind uint32, parts ...any) []byte {
	b := joined(parts...)
	return joined(uint64(wire.MagicReply), option, kind, uint32(len(b)), b)
}

const (
	fakeSize    = 1 << 20
	fakeContext = 7 // the number of Allocation
	fakeOther   = 8
)

// open shakes hands with a client as a good server would, whose smallest block is least.
func (f fake) open(flags Flags, least uint32) {
	f.greet()
	for {
		switch n, data := f.option(); n {
		case wire.OptStructured:
			f.send(replyTo(n, wire.RepAck))
		case wire.OptSetMeta:
			f.send(replyTo(n, wire.RepMeta, uint32(fakeContext), Allocation))
			if bytes.Contains(data, []byte("other")) {
				f.send(replyTo(n, wire.RepMeta, uint32(fakeOther), "other"))
			}
			f.send(replyTo(n, wire.RepAck))
		case wire.OptGo:
			f.send(replyTo(n, wire.RepInfo, uint16(wire.InfoExport), uint64(fakeSize), uint16(flags)),
				replyTo(n, wire.RepInfo, uint16(99), "what nobody knows"),
				replyTo(n, wire.RepInfo, uint16(wire.InfoBlockSize), least, uint32(4096), uint32(64<<10)), replyTo(n, wire.RepAck))
			return
		default:
			panic(fmt.Sprint("option ", n))
		}
	}
}

// asked is a request that the server has got.
type asked struct {
	flags, kind uint16
	cookie, off uint64
	length      uint32
}

func (f fake) request() asked {
	b := f.read(wire.RequestSize)
	return asked{binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint32(b[24:])}
}

func chunkOf(cookie uint64, kind, flags uint16, parts ...any) []byte {
	b := joined(parts...)
	return joined(uint32(wire.MagicChunk), flags, kind, cookie, uint32(len(b)), b)
}

func simple(cookie uint64, n Errno) []byte {
	return joined(uint32(wire.MagicSimple), uint32(n), cookie)
}

// dialFake opens the fake server's export.
func dialFake(t *testing.T, flags Flags, least uint32, script func(f fake)) *Client {
	t.Helper()
	c, err := Dial(t.Context(), serve(t, func(f fake) {
		f.open(flags, least)
		script(f)
	}), Options{Export: "disk", Contexts: []string{Allocation, "other"}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
