package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/stages/rundirect"
)

// homing asks a run's stage to bring its disk home, as run finalize does.
type homing struct {
	*testing.T
	net.Conn
	said *json.Decoder
}

func (r runOf) homing(t *testing.T, file string) *homing {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", filepath.Join(r.folder(), "home"))
		if err == nil {
			must(t, json.NewEncoder(c).Encode(rundirect.HomeOrder{Files: []string{file}}))
			return &homing{t, c, json.NewDecoder(c)}
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatal(err)
		}
	}
}

// until listens to the first report that is wanted.
func (h *homing) until(want func(rundirect.HomeReport) bool) rundirect.HomeReport {
	h.Helper()
	_ = h.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		var r rundirect.HomeReport
		must(h.T, h.said.Decode(&r))
		if want(r) {
			return r
		}
		if r.Error != "" {
			h.Fatal(r.Error)
		}
	}
}

// TestRunHome: a disk goes home while it is written to as fast as can be: what is copied is what
// the disk has when its guest stands still, though the stage is killed in between, and a
// copy that is spoilt is noticed.
func TestRunHome(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs and processes")
	}
	t.Parallel()
	p := newPlace(t, program(t), filepath.Join(t.TempDir(), "vault"))
	image := p.image("disk", 96)
	must(t, os.Truncate(image, 96<<20-100)) // is served in whole sectors
	p.run(0, "backup", image)
	var r runOf
	p.show("run", &r, "start", "latest", "--name", "one")
	defer func() { _ = p.command("run", "stop", "one", "--discard").Run() }()
	home := p.path("home.raw")
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var busy sync.WaitGroup
	write := func() {
		c := r.dial(t)
		busy.Go(func() {
			defer c.Close()
			b := make([]byte, 64<<10)
			for n := 0; writing.Err() == nil; n++ {
				_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
				part := b[:512*(1+rand.IntN(len(b)/512))]
				at := rand.Int64N((48<<20-int64(len(part)))/512) * 512 // half of it
				var err error
				switch n % 8 {
				case 6:
					err = c.Trim(at, int64(len(part)))
				case 7:
					err = c.WriteZeroes(at, int64(len(part)), 0)
				default:
					_, err = c.WriteAt(part, at)
				}
				if err != nil {
					return // the stage is killed
				}
			}
		})
	}
	write()
	h := r.homing(t, home)
	h.until(func(r rundirect.HomeReport) bool { return r.Done > 0 })
	r.kill(t, "rundirect")
	busy.Wait()
	write()
	h = r.homing(t, home)
	h.until(func(r rundirect.HomeReport) bool { return r.Ready })
	time.Sleep(200 * time.Millisecond) // it follows
	stop()
	busy.Wait() // each of its writes has been answered
	must(t, json.NewEncoder(h).Encode(rundirect.HomeOrder{Settle: true}))
	h.until(func(r rundirect.HomeReport) bool { return r.Settled })
	c := r.dial(t)
	want := make([]byte, c.Size())
	_, err := c.ReadAt(want, 0)
	must(t, err)
	if is, err := os.ReadFile(home); err != nil || !bytes.Equal(is, want) {
		t.Errorf("what is at home is not what the disk has: %v", err)
	}
	must(t, h.Close())
	// Once more, over what is there, in which a bit has changed that is not copied again.
	f, err := os.OpenFile(home, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{want[60<<20] ^ 4}, 60<<20)
	must(t, err)
	h = r.homing(t, home)
	if said := h.until(func(r rundirect.HomeReport) bool { return r.Error != "" || r.Ready }); said.Error == "" {
		t.Error("a spoilt copy is taken for whole")
	}
	must(t, h.Close())
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("what is spoilt is kept: %v", err)
	}
	h = r.homing(t, home) // and made anew
	h.until(func(r rundirect.HomeReport) bool { return r.Ready })
	must(t, json.NewEncoder(h).Encode(rundirect.HomeOrder{Settle: true}))
	h.until(func(r rundirect.HomeReport) bool { return r.Settled })
	if is, err := os.ReadFile(home); err != nil || !bytes.Equal(is, want) {
		t.Errorf("what is at home anew is not what the disk has: %v", err)
	}
	must(t, h.Close())
}
