package runs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/stages/rundirect"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk/filelock"
)

// Moved is what a move home came to.
type Moved struct {
	Files  []string
	Bytes  int64         // of the disks
	Paused time.Duration // that the guest stood for the switch
	Took   time.Duration
}

// Errors of a move.
var (
	// ErrOff says that a guest has to run, or to be resumed, for what is asked.
	ErrOff = errors.New("the guest is off")
	// ErrMoving says that somebody moves it.
	ErrMoving = errors.New("another process moves the run's disks")
)

// What is in a run's folder while its disks are moved.
const (
	movingName    = "moving"    // locked by who moves them
	switchingName = "switching" // there while the guest may stand still for the switch: "1" if it is to go on
)

// MoveHome brings the disks of a run home: the stage copies them to raw files in a folder while
// the guest runs, and reads them back; then the guest stands still for what it has written last,
// and QEMU makes it use the files. From then on the run needs neither the vault nor its
// overlays. tell hears how far it is.
//
// Interrupted or killed, it leaves the guest as it was, or the supervisor sees to that within
// a second; called again it goes on where it was. After an error it begins anew.
func MoveHome(ctx context.Context, r *Run, to string, tell func(done, all int64)) (m Moved, err error) {
	begun := time.Now()
	lock, mine, err := lockFile(filepath.Join(r.folder, movingName))
	if err != nil {
		return m, err
	}
	if !mine {
		return m, ErrMoving
	}
	defer lock.Close()
	if err := r.mend(ctx); err != nil { // of who moved it before; r is read again
		return m, err
	}
	if r.Homes != nil {
		return Moved{Files: r.Homes}, nil
	}
	if r.Host == "" || !r.Running() {
		return m, ErrOff
	}
	status, err := r.Machine().Status(ctx)
	if err != nil {
		return m, errors.Join(ErrOff, err)
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
	c, err := bring(ctx, filepath.Join(r.Sockets, homeName), m.Files, tell)
	if err != nil {
		return m, err
	}
	defer c.Close()
	goesOn := "0"
	if status == "running" {
		goesOn = "1"
	}
	switching := filepath.Join(r.folder, switchingName)
	if err := os.WriteFile(switching, []byte(goesOn), 0o600); err != nil {
		return m, err
	}
	m.Paused, err = r.Machine().Switch(ctx, homes, launch.Steps{
		Settle: c.settle,
		Commit: func(home bool) error {
			// The bytes are durable; now that they count. A crash before leaves a guest in its overlays,
			// after it one in its files: it stands still, and both are the same.
			if r.Homes = nil; home {
				r.Homes = m.Files
			}
			return r.save()
		},
	})
	m.Took = time.Since(begun)
	if err != nil {
		return m, errors.Join(err, r.mend(context.WithoutCancel(ctx)))
	}
	return m, os.Remove(switching)
}

// mend makes the end of a switch that somebody has not ended, and reads the run again. Who calls
// it has the lock for moving.
func (r *Run) mend(ctx context.Context) error {
	now, err := load(r.folder)
	if err != nil {
		return err
	}
	*r = *now
	path := filepath.Join(r.folder, switchingName)
	goesOn, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = r.Machine().Mend(ctx, r.homes(r.Moving), r.Homes != nil, string(goesOn) == "1")
	if err != nil && !errors.Is(err, launch.ErrGone) { // one that is off begins with what counts
		return err
	}
	return os.Remove(path)
}

// watchSwitch mends a switch whose process died, for as long as ctx lasts.
func (s Supervisor) watchSwitch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(250 * time.Millisecond):
		}
		if _, err := os.Lstat(filepath.Join(s.Run.folder, switchingName)); err != nil {
			continue
		}
		lock, mine, err := lockFile(filepath.Join(s.Run.folder, movingName))
		if err != nil || !mine {
			continue
		}
		r := &Run{folder: s.Run.folder}
		if err := errors.Join(r.mend(ctx), lock.Close()); err != nil {
			s.Log.Sugar().Warnw("a switch cannot be ended yet", "error", err)
		} else {
			s.Log.Info("ended the switch of a process that is gone")
		}
	}
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// homes are where the disks go in a folder.
func (r *Run) homes(to string) (out []launch.Home) {
	for n, d := range r.Disks {
		name := unfit.ReplaceAllString(filepath.Base(d.Key), "_")
		out = append(out, launch.Home{Disk: n, Path: filepath.Join(to, fmt.Sprintf("%s-%d.raw", name, n))})
	}
	return out
}

// makeHomes makes the files, empty, or finds those of a move that was begun. Those of one to
// another folder go.
func (r *Run) makeHomes(to string) ([]launch.Home, error) {
	homes := r.homes(to)
	if r.Moving != to {
		for _, h := range homes {
			if _, err := os.Lstat(h.Path); err == nil {
				return nil, fmt.Errorf("%s: %w", h.Path, fs.ErrExist)
			}
		}
		if err := r.ForgetHomes(); err != nil {
			return nil, err
		}
		r.Moving = to
		if err := r.save(); err != nil { // before there are files that only we know of
			return nil, err
		}
	}
	for _, h := range homes {
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close(), dir.OS().SyncDir(to))
		}
		if err != nil {
			return nil, err
		}
	}
	return homes, nil
}

// ForgetHomes removes the files of a move that did not come to its end.
func (r *Run) ForgetHomes() (err error) {
	if r.Homes != nil || r.Moving == "" {
		return nil
	}
	for n, h := range r.homes(r.Moving) {
		for _, path := range []string{h.Path, rundirect.NoteFile(r.folder, n)} {
			if e := os.Remove(path); !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	r.Moving = ""
	return errors.Join(err, r.save())
}

// carrier is the stage, as it brings the disks home.
type carrier struct {
	net.Conn
	said *json.Decoder
}

// bring has the stage copy the disks to files, and returns when it needs the guest to stand
// still. It goes on until the carrier is closed.
func bring(ctx context.Context, socket string, files []string, tell func(done, all int64)) (*carrier, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, errors.Join(ErrOff, err)
	}
	c := &carrier{conn, json.NewDecoder(conn)}
	err = json.NewEncoder(conn).Encode(rundirect.HomeOrder{Files: files})
	if err == nil {
		err = c.await(ctx, func(r rundirect.HomeReport) bool {
			if r.All > 0 {
				tell(r.Done, r.All)
			}
			return r.Ready
		})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// await listens until it hears what it waits for.
func (c *carrier) await(ctx context.Context, right func(rundirect.HomeReport) bool) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	for {
		var r rundirect.HomeReport
		err := c.said.Decode(&r)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("the process that copies the disks has ended, see stage.log: %w", err)
		case r.Full:
			return fmt.Errorf("%w: %s", syscall.ENOSPC, r.Error)
		case r.Error != "":
			return errors.New(r.Error)
		case right(r):
			return nil
		}
	}
}

// settle has it copy the last of what the guest has written, which stands still.
func (c *carrier) settle(ctx context.Context) error {
	if err := json.NewEncoder(c).Encode(rundirect.HomeOrder{Settle: true}); err != nil {
		return err
	}
	return c.await(ctx, func(r rundirect.HomeReport) bool { return r.Settled })
}

func lockFile(path string) (*os.File, bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	mine, err := filelock.Try(f, 0)
	if err != nil || !mine {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, true, nil
}

// DropOverlays removes what a run that has moved home needs no more.
func DropOverlays(r *Run) error {
	if r.Homes == nil {
		return fmt.Errorf("run %s has not moved", r.ID)
	}
	for n := range r.Disks {
		_ = os.Remove(rundirect.NoteFile(r.folder, n)) // of no use, and no harm
	}
	return os.RemoveAll(filepath.Join(r.folder, "disks"))
}
