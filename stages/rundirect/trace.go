package rundirect

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/restore/live"
)

// A trace says which parts of a disk a guest has read first, in order. It is a guess at what
// it will read when it boots again, no more: losing it costs speed, and a wrong one only bytes
// fetched in vain.
const (
	traceTime  = 2 * time.Minute // what is read later is not the boot
	traceSteps = 16 << 10
	traceBytes = 512 << 20
	grain      = 64 << 10 // parts are multiples of it
)

type step struct{ off, length int64 }

type trace struct {
	path string
	end  time.Time

	mu    sync.Mutex
	seen  map[int64]bool // grains
	steps []step
	saved int
}

func newTrace(path string, now time.Time) *trace {
	return &trace{path: path, end: now.Add(traceTime), seen: map[int64]bool{}}
}

// saw notes a read.
func (t *trace) saw(off, length int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) == traceSteps || len(t.seen) > traceBytes/grain || time.Now().After(t.end) {
		return
	}
	for g := off / grain; g <= (off+length-1)/grain; g++ {
		if t.seen[g] {
			continue
		}
		t.seen[g] = true
		if n := len(t.steps) - 1; n >= 0 && t.steps[n].off+t.steps[n].length == g*grain {
			t.steps[n].length += grain
		} else {
			t.steps = append(t.steps, step{g * grain, grain})
		}
	}
}

// save writes the trace down, if there is more of it than before.
func (t *trace) save() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) == t.saved {
		return
	}
	t.saved = len(t.steps)
	var b []byte
	for _, s := range t.steps {
		b = binary.LittleEndian.AppendUint64(b, uint64(s.off))
		b = binary.LittleEndian.AppendUint64(b, uint64(s.length))
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	// Nothing depends on it, so nobody is told.
	if os.MkdirAll(filepath.Dir(t.path), 0o700) == nil && os.WriteFile(t.path+".new", b, 0o600) == nil {
		_ = os.Rename(t.path+".new", t.path)
	}
}

// loadTrace reads what an earlier run has saved; nil if there is nothing of use.
func loadTrace(path string) (out []step) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > 16*traceSteps+4 {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 4 || len(b)%16 != 4 || crc32.ChecksumIEEE(b[:len(b)-4]) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil
	}
	var sum int64
	for b = b[:len(b)-4]; len(b) > 0; b = b[16:] {
		s := step{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
		if s.off < 0 || s.length <= 0 || s.length > traceBytes || sum+s.length > 2*traceBytes {
			return nil
		}
		sum += s.length
		out = append(out, s)
	}
	return out
}

// follow brings in what an earlier boot has read, in its order, at most so many bytes: what
// does not fit in memory would drive out what comes first.
func follow(ctx context.Context, m *live.Image, steps []step, most int64) {
	for _, s := range steps {
		if ctx.Err() != nil || most <= 0 {
			return
		}
		n, err := m.Want(ctx, s.off, s.length)
		if err != nil {
			return // the read that needs it tells why
		}
		most -= n
	}
}
