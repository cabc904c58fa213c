package runs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/stages/rundirect"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/raw"
)

// Moved is what a move home came to.
type Moved struct {
	Files  []string
	Bytes  int64         // of the disks
	Paused time.Duration // that the guest stood for the switch
	Took   time.Duration
}

// ErrOff says that a guest has to run, or to be resumed, for what is asked.
var ErrOff = errors.New("the guest is off")

// MoveHome copies the disks of a run to raw files in a folder while the guest runs, holds the copies
// against what is served, and makes the guest use them. From then on the run needs neither the
// vault nor its overlays. tell hears how far it is. Interrupted, it leaves the guest as it
// was, and may be called again.
func MoveHome(ctx context.Context, r *Run, to string, tell func(what string, done, all int64)) (m Moved, err error) {
	begun := time.Now()
	if r.Homes != nil {
		return Moved{Files: r.Homes}, nil
	}
	if r.Host == "" || !r.Running() {
		return m, ErrOff
	}
	if _, err := r.Machine().Status(ctx); err != nil {
		return m, errors.Join(ErrOff, err)
	}
	if r.Moving != "" && r.Moving != to {
		return m, fmt.Errorf("a move to %s was begun: finish it, or remove what it left there and say so with the same folder", r.Moving)
	}
	if err := dir.MakeAll(dir.OS(), to); err != nil {
		return m, err
	}
	homes, err := r.makeHomes(to)
	if err != nil {
		return m, err
	}
	for n, d := range r.Disks {
		m.Files = append(m.Files, homes[n].Path)
		m.Bytes += d.Size
	}
	m.Paused, err = r.Machine().Move(ctx, homes, launch.Steps{
		Progress: func(done, all int64) { tell("copy", done, all) },
		Verify: func(ctx context.Context) error {
			for n, h := range homes {
				if err := r.compare(ctx, n, h.Path, tell); err != nil {
					return fmt.Errorf("disk %s: %w", r.Disks[n].Key, err)
				}
				if err := syncFile(h.Path); err != nil { // so that little is left to do while the guest stands
					return err
				}
			}
			return nil
		},
		Commit: func(home bool) error {
			// The bytes, then that they count. A crash before the second leaves a guest in its overlays,
			// after it one in its files: it stands still, and both are the same.
			for _, h := range homes {
				if err := syncFile(h.Path); err != nil {
					return err
				}
			}
			if r.Homes = nil; home {
				r.Homes = m.Files
			}
			return r.save()
		},
	})
	m.Took = time.Since(begun)
	if err != nil {
		return m, errors.Join(err, r.forgetHomes(homes))
	}
	return m, nil
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// makeHomes makes the files, or finds those of a move that was begun.
func (r *Run) makeHomes(to string) (homes []launch.Home, err error) {
	again := r.Moving == to
	for n := range r.Disks {
		name := unfit.ReplaceAllString(filepath.Base(r.Disks[n].Key), "_")
		path := filepath.Join(to, fmt.Sprintf("%s-%d.raw", name, n))
		if _, err := os.Lstat(path); err == nil && !again {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		homes = append(homes, launch.Home{Disk: n, Path: path})
	}
	r.Moving = to
	if err := r.save(); err != nil { // before there are files that only we know of
		return nil, err
	}
	for n, h := range homes {
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = errors.Join(f.Truncate(rundirect.Size(r.Disks[n])), f.Close())
		}
		if err != nil {
			return nil, errors.Join(err, r.forgetHomes(homes[:n+1]))
		}
	}
	return homes, nil
}

// forgetHomes removes the files of a move that failed, unless they count already.
func (r *Run) forgetHomes(homes []launch.Home) (err error) {
	if r.Homes != nil {
		return nil
	}
	for _, h := range homes {
		if e := os.Remove(h.Path); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	r.Moving = ""
	return errors.Join(err, r.save())
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

const (
	window  = 1 << 20 // compared at once
	tries   = 100     // of a window that the guest is writing to
	between = 20 * time.Millisecond
)

// compare holds a file against the disk that is served. The guest writes to both meanwhile, to
// one a moment before the other: what differs is looked at again.
func (r *Run) compare(ctx context.Context, n int, path string, tell func(what string, done, all int64)) error {
	served, err := nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.Socket())
	}, nbd.Options{Export: rundirect.ExportName(n), Contexts: []string{nbd.Allocation}})
	if err != nil {
		return err
	}
	defer served.Close()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	file, err := raw.Open(f)
	if err != nil {
		return err
	}
	size := served.Size()
	wanted := make([]bool, (size+window-1)/window)
	for _, m := range []vdisk.Image{nbd.Image{Client: served}, file} {
		for e, err := range m.Extents(ctx, 0, size) {
			if err != nil {
				return err
			}
			for w := e.Offset / window; e.Kind == vdisk.Data && w <= (e.End()-1)/window; w++ {
				wanted[w] = true
			}
		}
	}
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for k := range 4 {
		g.Go(func() error {
			a, b := make([]byte, window), make([]byte, window)
			for w := int64(k); w < int64(len(wanted)); w += 4 {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				length := min(window, size-w*window)
				if wanted[w] {
					if err := alike(ctx, served, file, a[:length], b[:length], w*window); err != nil {
						return err
					}
				}
				tell("compare", done.Add(length), size)
			}
			return nil
		})
	}
	return g.Wait()
}

func alike(ctx context.Context, served *nbd.Client, file *raw.Image, a, b []byte, off int64) error {
	for range tries {
		if _, err := served.ReadAt(a, off); err != nil {
			return err
		}
		if _, err := file.ReadAt(b, off); err != nil {
			return err
		}
		if bytes.Equal(a, b) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(between):
		}
	}
	return fmt.Errorf("what was copied is not what is served, at %d", off)
}

// DropOverlays removes what a run that has moved home needs no more.
func DropOverlays(r *Run) error {
	if r.Homes == nil {
		return fmt.Errorf("run %s has not moved", r.ID)
	}
	return os.RemoveAll(filepath.Join(r.folder, "disks"))
}
