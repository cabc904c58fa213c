package rundirect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/restore/live"
	"github.com/millrace-backup/millrace/vault"
)

// What who brings the disks home and the stage say to each other, in lines of JSON, over a
// socket of the run's. The stage copies for as long as the connection lasts.
type (
	// HomeOrder is what the stage is told: first the files, one for each disk; later that the
	// guest stands still.
	HomeOrder struct {
		Files  []string `json:"files,omitempty"`
		Settle bool     `json:"settle,omitempty"`
	}
	// HomeReport is what it says: how far it is, what it needs the guest to stand still for, that
	// the files have all, or why not.
	HomeReport struct {
		Done    int64  `json:"done,omitempty"`
		All     int64  `json:"all,omitempty"`
		Ready   bool   `json:"ready,omitempty"`
		Settled bool   `json:"settled,omitempty"`
		Error   string `json:"error,omitempty"`
		Full    bool   `json:"full,omitempty"` // there is no room for the files
	}
)

// homeMemory is for chunks that are just being copied: the guest's are not driven out.
const homeMemory = 32 << 20

// NoteFile is where it is noted how far a disk is.
func NoteFile(run string, n int) string { return filepath.Join(run, "home-"+strconv.Itoa(n)) }

// homes brings the disks of a run home, for one that asks at a time.
type homes struct {
	v     *vault.Vault
	w     Work
	disks []*disk
}

// serve serves until ctx ends.
func (h *homes) serve(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		h.one(ctx, c)
	}
}

// one serves a connection to its end.
func (h *homes) one(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	orders := make(chan HomeOrder)
	go func() {
		defer cancel() // who hangs up ends it
		dec := json.NewDecoder(io.LimitReader(c, 16<<20))
		for {
			var o HomeOrder
			if dec.Decode(&o) != nil {
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	var talking sync.Mutex
	enc := json.NewEncoder(c)
	say := func(r HomeReport) {
		talking.Lock()
		defer talking.Unlock()
		_ = enc.Encode(r) // who does not hear it has hung up
	}
	if err := h.bring(ctx, orders, say); err != nil {
		say(HomeReport{Error: err.Error(), Full: errors.Is(err, syscall.ENOSPC)})
	}
}

// bring copies until the other side hangs up.
func (h *homes) bring(ctx context.Context, orders <-chan HomeOrder, say func(HomeReport)) (err error) {
	var o HomeOrder
	select {
	case o = <-orders:
	case <-ctx.Done():
		return nil
	}
	if len(o.Files) != len(h.disks) {
		return fmt.Errorf("%d files for %d disks", len(o.Files), len(h.disks))
	}
	var done, all atomic.Int64
	tell := func(n int64) { done.Add(n) }
	var movers []*mover
	defer func() {
		for n, m := range movers {
			m.end()
			if err != nil && ctx.Err() == nil { // not interrupted: what is there is no use, or in the way
				err = errors.Join(err, m.f.Truncate(0), os.RemoveAll(NoteFile(h.w.Folder, n)))
			}
			err = errors.Join(err, m.past.Close(), m.base.Close())
		}
	}()
	cache := live.NewCache(homeMemory)
	for n := range h.disks {
		m, err := h.begin(ctx, cache, n, o.Files[n], tell)
		if err != nil {
			return err
		}
		movers = append(movers, m)
		needs := int64(0)
		for unit, err := range m.all(ctx) {
			if err != nil {
				return err
			}
			all.Add(2 * m.length(unit)) // copied, and read back
			if m.unit(unit) == nil {
				needs += m.length(unit)
			}
		}
		if free, ok := room(m.f); ok && free < needs {
			return fmt.Errorf("disk %s needs up to %d bytes at %s, where %d are free: %w", h.w.Disks[n].Key, needs, o.Files[n], free, syscall.ENOSPC)
		}
	}
	telling, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for telling.Err() == nil {
			say(HomeReport{Done: min(done.Load(), all.Load()), All: max(all.Load(), 1)})
			select {
			case <-telling.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	for n, m := range movers {
		note := NoteFile(h.w.Folder, n)
		if err := m.bring(ctx, 2*runtime.GOMAXPROCS(0), func() error { return m.note(note) }); err != nil {
			return fmt.Errorf("disk %s: %w", h.w.Disks[n].Key, err)
		}
	}
	stop()
	say(HomeReport{Ready: true})
	if err := h.wait(ctx, movers, orders); err != nil {
		return err
	}
	g, settling := errgroup.WithContext(ctx)
	for _, m := range movers {
		g.Go(func() error { return m.settle(settling) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	say(HomeReport{Settled: true})
	<-ctx.Done() // the guest stands still until it is switched over; if it is not, it goes on here
	return nil
}

// wait waits until the guest stands still, and keeps what it writes few meanwhile.
func (h *homes) wait(ctx context.Context, movers []*mover, orders <-chan HomeOrder) error {
	for {
		select {
		case o := <-orders:
			if o.Settle {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
			for _, m := range movers {
				if err := m.follow(ctx, fewDirty); err != nil {
					return err
				}
			}
		}
	}
}

func (h *homes) begin(ctx context.Context, cache *live.Cache, n int, path string, tell func(int64)) (*mover, error) {
	pd := h.w.Disks[n]
	f, units, used, err := openHome(path, NoteFile(h.w.Folder, n), Size(pd))
	if err != nil {
		return nil, err
	}
	base, err := cache.Open(ctx, h.v, pd)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	m, err := newMover(ctx, h.disks[n], base, f, units, tell)
	if err != nil {
		return nil, errors.Join(err, f.Close(), base.Close())
	}
	m.used = used
	return m, nil
}

// listenHome makes the socket that is asked at.
func listenHome(path string) (net.Listener, error) {
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
