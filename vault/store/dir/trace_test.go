package dir

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-backup/millrace/vault/store"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// tracer writes down every effect on the disk, in order, and can fail one.
type tracer struct {
	FS
	root string
	mu   sync.Mutex
	log  []string
	fail map[string]error // by effect
}

func (r *tracer) effect(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), r.root, "")
	if at := strings.Index(line, "/tmp/"); at >= 0 && len(line) >= at+5+32 {
		line = line[:at+5] + "T" + line[at+5+32:]
	}
	r.log = append(r.log, line)
	return r.fail[line]
}

func (r *tracer) Create(name string) (File, error) {
	if err := r.effect("create %s", name); err != nil {
		return nil, err
	}
	f, err := r.FS.Create(name)
	return &tracedFile{f, r}, err
}

func (r *tracer) Publish(temp, name string) error {
	if err := r.effect("publish %s", name); err != nil {
		return err
	}
	return r.FS.Publish(temp, name)
}

func (r *tracer) Remove(name string) error {
	if err := r.effect("remove %s", name); err != nil {
		return err
	}
	return r.FS.Remove(name)
}

func (r *tracer) Mkdir(name string) error {
	if err := r.effect("mkdir %s", name); err != nil {
		return err
	}
	return r.FS.Mkdir(name)
}

func (r *tracer) SyncDir(name string) error {
	if err := r.effect("syncdir %s/", name); err != nil {
		return err
	}
	return r.FS.SyncDir(name)
}

type tracedFile struct {
	File
	r *tracer
}

func (f *tracedFile) Write(p []byte) (int, error) {
	if err := f.r.effect("write %d", len(p)); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *tracedFile) Sync() error {
	if err := f.r.effect("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

func trace(t *testing.T) (*Store, *tracer) {
	t.Helper()
	r := &tracer{FS: OS(), root: t.TempDir(), fail: map[string]error{}}
	s, err := OpenOn(r, r.root)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// The order of effects is the whole of this package's promise: a reply before
// its sync shows up here as a diff.
func TestOrderOfEffects(t *testing.T) {
	if os.PathSeparator != '/' {
		t.Skip("the golden trace has Unix paths")
	}
	s, r := trace(t)
	other, err := OpenOn(r, r.root)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	step := func(what string, err error) {
		r.log = append(r.log, "-> "+shortErr(err))
		fmt.Fprintf(&out, "%s\n----\n%s\n\n", what, strings.Join(r.log, "\n"))
		r.log = nil
	}
	put := func(s *Store, name string, size int) error {
		return s.PutNew(t.Context(), name, int64(size), strings.NewReader(strings.Repeat("x", size)))
	}
	step("first put of a store", put(s, "packs/job/a", 2*piece+5))
	step("second put into the same folder", put(s, "packs/job/b", 1))
	step("put in another process, folders are there", put(other, "packs/job/c", 1))
	step("put of a taken name", put(s, "packs/job/a", 1))
	step("put of a short body", s.PutNew(t.Context(), "packs/job/d", 2, strings.NewReader("x")))
	step("put of a name without folder", put(s, "vault", 1))
	u, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Write(make([]byte, 3*piece/2))
	step("begin and write an upload", err)
	step("commit it", u.Commit(t.Context(), "packs/job/e"))
	step("delete", s.Delete(t.Context(), "packs/job/e"))

	golden := filepath.Join("testdata", "effects.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("effects differ from %s (run with -update to rewrite):\n%s", golden, out.String())
	}
}

func shortErr(err error) string {
	for _, s := range []error{store.ErrExists, store.ErrLength, store.ErrFull} {
		if errors.Is(err, s) {
			return s.Error()
		}
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// Every effect of a put fails once; the put must say so and leave no temp, and
// the object must be absent or whole.
func TestEveryEffectFails(t *testing.T) {
	body := strings.Repeat("x", piece+1)
	put := func(s *Store) error {
		return s.PutNew(t.Context(), "packs/job/a", int64(len(body)), strings.NewReader(body))
	}
	s, r := trace(t)
	if err := put(s); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk broke")
	for _, effect := range r.log {
		if strings.HasPrefix(effect, "remove") {
			continue // nothing depends on it
		}
		t.Run(effect, func(t *testing.T) {
			s, r := trace(t)
			r.fail[effect] = broken
			if err := put(s); !errors.Is(err, broken) {
				t.Fatalf("put: want the disk's error, got %v", err)
			}
			if left := temps(t, s); len(left) > 0 {
				t.Errorf("temps left: %q", left)
			}
			delete(r.fail, effect)
			e, err := s.Stat(t.Context(), "packs/job/a")
			if err == nil && e.Size != int64(len(body)) {
				t.Errorf("a torn object is visible: %d bytes", e.Size)
			}
			if again := put(s); again != nil && !(err == nil && errors.Is(again, store.ErrExists)) {
				t.Errorf("put again: %v", again)
			}
		})
	}
}

func TestFailedFolderSyncIsNotHiddenByErrExists(t *testing.T) {
	s, r := trace(t)
	putString(t, s, "ledger/1", "winner")
	r.fail["syncdir /ledger/"] = fs.ErrInvalid
	err := s.PutNew(t.Context(), "ledger/1", 5, strings.NewReader("loser"))
	if err == nil || errors.Is(err, store.ErrExists) {
		t.Errorf("a name that could not be made durable was reported as existing: %v", err)
	}
}
