package nbd

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// talk is a server that says what it says whatever it hears.
type talk struct {
	io.Reader
	io.Writer
}

func FuzzHandshake(f *testing.F) {
	hello := joined(uint64(wire.MagicHello), uint64(wire.MagicOption), uint16(wire.FlagFixed|wire.FlagNoZeroes))
	structured, opened := replyTo(wire.OptStructured, wire.RepAck), replyTo(wire.OptGo, wire.RepAck)
	meta := joined(replyTo(wire.OptSetMeta, wire.RepMeta, uint32(1), Allocation), replyTo(wire.OptSetMeta, wire.RepMeta, uint32(2), DirtyBitmap("x")), replyTo(wire.OptSetMeta, wire.RepAck))
	f.Add(joined(hello, structured, meta, exportInfo(1<<40, HasFlags|CanFlush), blockInfo(512, 4096, 1<<25), opened))
	f.Add(joined(hello, structured, meta, replyTo(wire.OptGo, wire.RepInfo, uint16(99)), exportInfo(0, HasFlags), opened))
	f.Add(joined(hello, structured, replyTo(wire.OptSetMeta, wire.RefusedUnsupported, "no")))
	f.Add(joined(hello, replyTo(wire.OptStructured, wire.RefusedTLS, "TLS first")))
	f.Add(joined(uint64(wire.MagicHello), uint64(wire.MagicOld), make([]byte, 136)))
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
	f.Add(joined(chunkOf(read, wire.ChunkData, wire.ChunkDone, uint64(off), x), chunkOf(status, wire.ChunkStatus, wire.ChunkDone, extents(7, 100, 0, 100, 0, 5000, 1)...), simple(write, 0)))
	f.Add(joined(chunkOf(write, wire.ChunkNone, wire.ChunkDone), chunkOf(read, wire.ChunkData, 0, uint64(off+96), x[96:]), chunkOf(status, wire.ChunkStatus, 0, extents(8, n, 3)...),
		chunkOf(read, wire.ChunkHole, wire.ChunkDone, uint64(off), uint32(96)), chunkOf(status, wire.ChunkStatus, wire.ChunkDone, extents(7, n, 3)...)))
	f.Add(joined(chunkOf(read, wire.ChunkData, 0, uint64(off), x), chunkOf(read, wire.ChunkErrorOffset, wire.ChunkDone, uint32(EIO), uint16(2), "no", uint64(off+5)),
		chunkOf(status, wire.ChunkError, wire.ChunkDone, uint32(ENOMEM), uint16(0)), simple(write, ENOSPC)))
	f.Add(joined(chunkOf(read, wire.ChunkHole, 0, uint64(off), uint32(n)), chunkOf(read, wire.ChunkData, wire.ChunkDone, uint64(off+n-1), "x")))
	f.Fuzz(func(t *testing.T, says []byte) {
		c := &Client{export: export{size: 1 << 40, contexts: []metaContext{{7, Allocation}, {8, "other"}}}}
		for i, r := range []request{{kind: wire.CmdRead, p: make([]byte, n)}, {kind: wire.CmdStatus, context: 7}, {kind: wire.CmdWrite}} {
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
			case wire.CmdRead:
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
			case wire.CmdStatus:
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
