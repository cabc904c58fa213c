package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/stages/rundirect"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

const (
	folderName = "runs"
	fileName   = "run.json"
	lockName   = "lock"
	countsName = "served.json"
	stopName   = "stop" // socket of the supervisor
	diskName   = "nbd"  // socket of the NBD server
	homeName   = "home" // socket at which disks are brought home
	// maxSocket is the longest path that is taken for a socket.
	maxSocket = 100
	maxFile   = 64 << 20
)

// ErrNone says that there is no such run.
var ErrNone = errors.New("no such run")

// Run is a guest that runs from a point, or the disks of one that are served to somebody.
type Run struct {
	Format    int                `json:"format"` // 1
	ID        id.Job             `json:"run"`
	Vault     string             `json:"vault"` // where it is
	VaultID   id.Vault           `json:"vault_id"`
	Point     id.Point           `json:"point"`
	PointTime time.Time          `json:"point_time"`
	Guest     id.Guest           `json:"guest"` // of the point
	GuestName string             `json:"guest_name"`
	Name      string             `json:"name"` // under which it runs
	Host      string             `json:"host"` // "qemu" or, for disks alone, ""
	Isolated  bool               `json:"isolated"`
	Config    []byte             `json:"config,omitempty"` // the hypervisor's description of the machine
	Disks     []events.PointDisk `json:"disks"`
	Started   time.Time          `json:"started"`
	Memory    int64              `json:"memory"`       // for chunks, bytes; 0: the default
	RAM       int64              `json:"guest_memory"` // of the guest, bytes; 0: as configured
	CPUs      int                `json:"guest_cpus"`   // 0: as configured
	Sockets   string             `json:"sockets"`      // folder of them; its path is short
	Traces    string             `json:"traces"`
	// Moving is the folder that the disks are being moved to; Homes are the files that they are
	// in when that is done: then the overlays count no more.
	Moving string   `json:"moving,omitempty"`
	Homes  []string `json:"homes,omitempty"`
	// Keeping is since when what the guest wrote is being made a point: it is off, and nobody
	// writes. Zero: it is not.
	Keeping time.Time `json:"keeping,omitzero"`

	folder string
}

// Folder is the run's.
func (r *Run) Folder() string { return r.folder }

// Socket is the path of the NBD server.
func (r *Run) Socket() string { return filepath.Join(r.Sockets, diskName) }

// Work is what the stage of the run serves.
func (r *Run) Work() rundirect.Work {
	return rundirect.Work{Run: r.ID, Point: r.Point, Disks: r.Disks, Folder: r.folder, Socket: r.Socket(), Home: filepath.Join(r.Sockets, homeName), Traces: r.Traces, Memory: r.Memory, Still: !r.Keeping.IsZero()}
}

// Create makes a run in a state directory. It is durable when Create returns.
func Create(state string, r *Run) (err error) {
	folder := filepath.Join(state, folderName)
	if err := dir.MakeAll(dir.OS(), folder); err != nil {
		return err
	}
	sweep(folder)
	r.Format = 1
	r.folder = filepath.Join(folder, r.ID.String())
	if err := os.Mkdir(r.folder, 0o700); err != nil {
		return fmt.Errorf("make run: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make run: %w", err), Remove(r))
		}
	}()
	if r.Sockets = r.folder; len(filepath.Join(r.folder, diskName)) > maxSocket {
		if r.Sockets, err = os.MkdirTemp("", "millrace-run-"); err != nil {
			return err
		}
	}
	if err := rundirect.Prepare(r.Work()); err != nil {
		return err
	}
	// Overlays before the file that names them: a crash in between leaves a folder that is
	// no run, which sweep removes.
	return r.save()
}

// save makes run.json say what r does.
func (r *Run) save() error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.folder, fileName), b)
}

// replaceFile makes a file with these bytes, durably and in one step.
func replaceFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return dir.OS().SyncDir(filepath.Dir(path))
}

// sweep removes folders that were to be runs. Nobody else makes one: the state directory's
// runs are made by one user, and a folder without run.json that is in the making is locked
// by its overlays' files only in parts; so those of the last minutes stay.
func sweep(folder string) {
	entries, _ := os.ReadDir(folder)
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		if _, err := os.Lstat(filepath.Join(path, fileName)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if info, err := e.Info(); err == nil && e.IsDir() && old(info) {
			_ = os.RemoveAll(path)
		}
	}
}

// List returns the runs of a state directory, the oldest first. What cannot be read is an
// error beside them.
func List(state string) (out []*Run, bad error) {
	entries, err := os.ReadDir(filepath.Join(state, folderName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		r, err := load(filepath.Join(state, folderName, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("run in %s: %w", e.Name(), err))
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *Run) int { return a.Started.Compare(b.Started) })
	return out, bad
}

func load(folder string) (*Run, error) {
	path := filepath.Join(folder, fileName)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Run{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Format != 1 {
		return nil, fmt.Errorf("%s: format %d is of a later version", path, r.Format)
	}
	// The folder may have been moved with the state directory.
	if r.Sockets == r.folder || filepath.Base(r.Sockets) == r.ID.String() {
		r.Sockets = folder
	}
	r.folder = folder
	return r, nil
}

// Find returns the run that a word names: the beginning of its id, its name, or "latest".
func Find(state, word string) (*Run, error) {
	all, err := List(state)
	var found []*Run
	for _, r := range all {
		if r.Name == word || strings.HasPrefix(r.ID.String(), strings.ToLower(word)) && word != "" {
			found = append(found, r)
		}
	}
	switch {
	case word == "latest" && len(all) > 0:
		return all[len(all)-1], nil
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%q names %d runs: use more of the id", word, len(found))
	}
	return nil, errors.Join(fmt.Errorf("%q: %w", word, ErrNone), err)
}

// Remove takes a run away, and all that its guest has written.
func Remove(r *Run) error {
	// First the file that makes it a run: a crash after it leaves a folder that sweep removes.
	err := os.Remove(filepath.Join(r.folder, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if r.Sockets != r.folder && r.Sockets != "" && strings.HasPrefix(filepath.Base(r.Sockets), "millrace-run-") {
		err = errors.Join(err, os.RemoveAll(r.Sockets))
	}
	return errors.Join(err, os.RemoveAll(r.folder))
}

// lock takes a run's lock; false: somebody has it.
func (r *Run) lock() (*os.File, bool, error) { return lockFile(filepath.Join(r.folder, lockName)) }

// Running reports whether a process supervises the run.
func (r *Run) Running() bool {
	f, mine, err := r.lock()
	if err != nil || !mine {
		return err == nil
	}
	_ = f.Close()
	return false
}

// Counts are what was last told of the run; zero if nothing was.
func (r *Run) Counts() (c rundirect.Counts) {
	b, err := os.ReadFile(filepath.Join(r.folder, countsName))
	if err == nil && len(b) < 4096 {
		_ = json.Unmarshal(b, &c)
	}
	return c
}

// old reports whether a folder was made long enough ago that nobody is making a run in it.
func old(info fs.FileInfo) bool { return time.Since(info.ModTime()) > 10*time.Minute }
