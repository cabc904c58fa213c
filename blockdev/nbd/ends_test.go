package nbd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// TestMain looks whether a test, of all those with servers that do wrong, has left a
// goroutine of a client behind.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(left, "nbd.(*Client)") {
			break
		}
		if time.Now().After(end) {
			fmt.Println("goroutines of clients are left:\n" + left)
			code = max(code, 1)
			break
		}
	}
	os.Exit(code)
}

// What a server says that it will send takes no room before it comes.
func TestClaims(t *testing.T) {
	hello := joined(uint64(wire.MagicHello), uint64(wire.MagicOption), uint16(wire.FlagFixed))
	claim := func(cookie uint64, kind uint16, size uint32, parts ...any) []byte {
		return append(joined(uint32(wire.MagicChunk), uint16(0), kind, cookie, size), joined(parts...)...)
	}
	const read, status = uint64(1 << 8), uint64(2<<8 | 1)
	for name, says := range map[string][]byte{
		"an option's reply": joined(hello, uint64(wire.MagicReply), uint32(wire.OptStructured), uint32(wire.RepAck), uint32(1<<32-1)),
		"data":              claim(read, wire.ChunkData, 1<<32-1, uint64(0)),
		"a hole":            chunkOf(read, wire.ChunkHole, 0, uint64(0), uint32(1<<32-1)),
		"all extents":       claim(status, wire.ChunkStatus, 4+8*maxExtents, uint32(7), uint32(1), uint32(1)),
		"more extents":      claim(status, wire.ChunkStatus, 1<<32-4, uint32(7)),
		"an error":          claim(read, wire.ChunkError, 1<<32-1, uint32(EIO), uint16(1<<16-1)),
	} {
		var before, after runtime.MemStats
		c := &Client{export: export{size: 1 << 40, contexts: []metaContext{{7, Allocation}}}}
		c.calls[0].request, c.calls[0].cookie = request{kind: wire.CmdRead, length: 16, p: make([]byte, 16)}, read
		c.calls[1].request, c.calls[1].cookie = request{kind: wire.CmdStatus, length: 1 << 30, context: 7}, status
		in := bufio.NewReaderSize(bytes.NewReader(says), replyBuffer)
		runtime.ReadMemStats(&before)
		var err error
		if bytes.HasPrefix(says, hello) {
			server := talk{in, io.Discard}
			if err = greet(server); err == nil {
				_, err = negotiate(server, "x", nil)
			}
		} else {
			err = c.reply(in)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; err == nil || n > 256<<10 {
			t.Errorf("%s: %d bytes are taken, %v", name, n, err)
		}
	}
}
