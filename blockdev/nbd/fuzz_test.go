package nbd

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// talk is a server that says what it says whatever it hears.
type talk struct {
	io.Reader
	io.Writer
}

func FuzzHandshake(f *testing.F) {
	hello := wire(uint64(magicHello), uint64(magicOption), uint16(flagFixed|flagNoZeroes))
	structured, opened := replyTo(optStructured, repAck), replyTo(optGo, repAck)
	meta := wire(replyTo(optSetMeta, repMeta, uint32(1), Allocation), replyTo(optSetMeta, repMeta, uint32(2), DirtyBitmap("x")), replyTo(optSetMeta, repAck))
	f.Add(wire(hello, structured, meta, exportInfo(1<<40, HasFlags|CanFlush), blockInfo(512, 4096, 1<<25), opened))
	f.Add(wire(hello, structured, meta, replyTo(optGo, repInfo, uint16(99)), exportInfo(0, HasFlags), opened))
	f.Add(wire(hello, structured, replyTo(optSetMeta, refusedUnsupported, "no")))
	f.Add(wire(hello, replyTo(optStructured, refusedTLS, "TLS first")))
	f.Add(wire(uint64(magicHello), uint64(magicOld), make([]byte, 136)))
	contexts := []string{Allocation, DirtyBitmap("x")}
	f.Fuzz(func(t *testing.T, says []byte) {
		server := talk{bytes.NewReader(says), io.Discard}
		if err := greet(server); err != nil {
			_ = err.Error()
			return
		}
		e, err := negotiate(server, "disk", contexts)
		if err != nil {
			if len(err.Error()) > 10*maxError {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		b := e.block
		if e.size < 0 || e.flags&HasFlags == 0 || b.Min < 1 || b.Min > maxMinBlock || b.Max < b.Min || b.Max > maxRequest || b.Max%b.Min != 0 {
			t.Fatalf("%+v", e)
		}
		if len(e.contexts) != len(contexts) || e.contexts[0].id == e.contexts[1].id {
			t.Fatalf("contexts %v", e.contexts)
		}
	})
}

// Whatever a server sends, a request that succeeds has been answered, every byte of it.
func FuzzReplies(f *testing.F) {
	const off, n = 1 << 33, 256
	read, status, write := uint64(1<<8), uint64(2<<8|1), uint64(3<<8|2)
	x := strings.Repeat("x", n)
	f.Add(wire(chunkOf(read, chunkData, chunkDone, uint64(off), x), chunkOf(status, chunkStatus, chunkDone, extents(7, 100, 0, 100, 0, 5000, 1)...), simple(write, 0)))
	f.Add(wire(chunkOf(write, chunkNone, chunkDone), chunkOf(read, chunkData, 0, uint64(off+96), x[96:]), chunkOf(status, chunkStatus, 0, extents(8, n, 3)...),
		chunkOf(read, chunkHole, chunkDone, uint64(off), uint32(96)), chunkOf(status, chunkStatus, chunkDone, extents(7, n, 3)...)))
	f.Add(wire(chunkOf(read, chunkData, 0, uint64(off), x), chunkOf(read, chunkErrorOffset, chunkDone, uint32(EIO), uint16(2), "no", uint64(off+5)),
		chunkOf(status, chunkError, chunkDone, uint32(ENOMEM), uint16(0)), simple(write, ENOSPC)))
	f.Add(wire(chunkOf(read, chunkHole, 0, uint64(off), uint32(n)), chunkOf(read, chunkData, chunkDone, uint64(off+n-1), "x")))
	f.Fuzz(func(t *testing.T, says []byte) {
		c := &Client{export: export{size: 1 << 40, contexts: []metaContext{{7, Allocation}, {8, "other"}}}}
		for i, r := range []request{{kind: cmdRead, p: make([]byte, n)}, {kind: cmdStatus, context: 7}, {kind: cmdWrite}} {
			x := &c.calls[i]
			r.off, r.length = off, n
			x.request, x.cookie, x.done = r, []uint64{read, status, write}[i], make(chan struct{}, 1)
		}
		in := bufio.NewReaderSize(bytes.NewReader(says), replyBuffer)
		var err error
		for err == nil {
			err = c.reply(in)
		}
		for i := range c.calls[:3] {
			x := &c.calls[i]
			if answered := len(x.done) == 1; answered != (x.cookie == 0) {
				t.Fatalf("call %d: answered %v, cookie %#x", i, answered, x.cookie)
			}
			if x.cookie != 0 || x.err != nil {
				continue
			}
			switch x.kind {
			case cmdRead:
				filled := make([]bool, n)
				for _, s := range x.got {
					for at := s.from; at < s.to; at++ {
						if filled[at] {
							t.Fatalf("byte %d came twice", at)
						}
						filled[at] = true
					}
				}
				if slices.Contains(filled, false) {
					t.Fatal("a byte did not come")
				}
			case cmdStatus:
				at := int64(off)
				for j, s := range x.status {
					if s.Offset != at || s.Length < 1 || s.Length > off+n-at || j > 0 && x.status[j-1].Flags == s.Flags {
						t.Fatalf("%v", x.status)
					}
					at += s.Length
				}
				if at == off {
					t.Fatal("it tells of nothing")
				}
			}
		}
	})
}
