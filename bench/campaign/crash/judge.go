package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/crashfs"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// view is a state that a power cut left, with what the program had said before.
type view struct {
	s     *scenario
	disk  *crashfs.Disk
	files map[string][32]byte // that matter
	told  told
}

// told is what the program had printed.
type told struct {
	summary    bool
	checkpoint uint64
	positions  uint64 // the highest of a fact
	points     []string
}

// hear reads whole lines of output.
func hear(text []byte) (out told) {
	for line := range bytes.Lines(text) {
		var l struct {
			Type       string
			Position   uint64
			Checkpoint uint64
			Points     []string
			Kind       string
			Fact       struct{ Point string }
		}
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &l) != nil {
			continue
		}
		out.positions = max(out.positions, l.Position)
		switch {
		case l.Type == "summary":
			out.summary, out.checkpoint = true, l.Checkpoint
			out.points = append(out.points, l.Points...)
		case l.Kind == "PointCommitted":
			out.points = append(out.points, l.Fact.Point)
		}
	}
	return out
}

func (s *scenario) view(c crashfs.Case, after *crashfs.Disk) *view {
	return &view{s: s, disk: after, files: sums(after, s.place.Dir, s.matters), told: hear(s.told[c.Effects])}
}

// key is equal for states that look the same from outside: what is unfinished, and
// the caches, which may be lost or wrong at any time, do not count here. The program
// is tried on them.
func (v *view) key() (key [32]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "%+v", v.told)
	for _, path := range slices.Sorted(maps.Keys(v.files)) {
		sum := v.files[path]
		h.Write(append([]byte(path), sum[:]...))
	}
	h.Sum(key[:0])
	return key
}

// matters: it is no cache and nothing unfinished.
func (s *scenario) matters(path string) bool {
	unseen := []string{filepath.Join(s.place.Vault, store.Reserved)}
	for _, state := range s.states {
		unseen = append(unseen, filepath.Join(state, "cache"), filepath.Join(state, "jobs"))
	}
	for _, below := range unseen {
		if strings.HasPrefix(path, below+string(filepath.Separator)) {
			return false
		}
	}
	return !strings.HasSuffix(path, ".part") && !strings.HasPrefix(filepath.Base(path), ".new-")
}

// judge says what is wrong with a state.
func (v *view) judge(ctx context.Context) error {
	return errors.Join(v.wholeFiles(), v.vault(ctx), v.target())
}

// wholeFiles: what has a name, has the bytes that it had in the end. Nothing that
// counts is ever written twice, but what the machine remembers.
func (v *view) wholeFiles() error {
	for path, sum := range v.files {
		if end, ok := v.s.end[path]; ok && end != sum && !strings.HasPrefix(path, v.s.place.State) {
			return fmt.Errorf("%s is torn", path)
		}
	}
	return nil
}

func (v *view) vault(ctx context.Context) error {
	p := v.s.place
	st, err := dir.OpenOn(v.disk, p.Vault)
	if err == nil {
		_, err = st.Stat(ctx, vault.ConfigName)
	}
	if (errors.Is(err, store.ErrNoStore) || errors.Is(err, store.ErrNotFound)) && v.s.name == "init" && !v.told.summary {
		return nil // there is no vault yet
	}
	if err != nil {
		return err
	}
	opened, err := vault.Open(ctx, st, []byte(rig.Password))
	if err != nil {
		return err
	}
	var l *ledger.Ledger
	for _, state := range v.s.states {
		remembered, err := v.remembered(opened.Config, state)
		if err != nil {
			return err
		}
		if l, err = ledger.Open(ctx, opened, ledger.Options{Remembered: remembered, Now: time.Now}); err != nil {
			return err
		}
	}
	if err := l.Verify(ctx); err != nil {
		return err
	}
	if next, _, _ := l.Head(); v.told.positions > 0 && next <= v.told.positions {
		return fmt.Errorf("a fact at position %d was announced, the ledger ends before %d", v.told.positions, next)
	}
	if size := l.Signed().Size; size < v.told.checkpoint {
		return fmt.Errorf("checkpoint %d was announced, there is %d", v.told.checkpoint, size)
	}
	return v.points(ctx, opened, l)
}

// remembered is the checkpoint that the machine remembers, which is never torn, and
// there once the program has said that it is done. (Of two at once it is not known
// which has said so.)
func (v *view) remembered(cfg vault.Config, state string) (*ledger.Checkpoint, error) {
	certain := v.told.summary && len(v.s.states) == 1
	text, err := v.disk.ReadFile(filepath.Join(state, "checkpoints", cfg.ID.String()))
	if errors.Is(err, fs.ErrNotExist) && !certain {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remembered checkpoint: %w", err)
	}
	c, err := ledger.ParseCheckpoint(cfg, text)
	if err == nil && certain && c.Size < v.told.checkpoint {
		err = fmt.Errorf("it is %d, %d was announced", c.Size, v.told.checkpoint)
	}
	if err != nil {
		return nil, fmt.Errorf("remembered checkpoint: %w", err)
	}
	return &c, nil
}

// points restores every point that is listed.
func (v *view) points(ctx context.Context, opened *vault.Vault, l *ledger.Ledger) error {
	state, err := catalog.Fold(l.Records(ctx, 0))
	if err != nil {
		return err
	}
	listed, count := map[string]bool{}, map[string]int{}
	for _, p := range state.Listed() {
		listed[p.Point.String()] = true
		n, known := count[p.GuestName], v.s.images[p.GuestName]
		count[p.GuestName]++
		what := fmt.Sprintf("point %d of %s", n, p.GuestName)
		if n >= len(known) || len(p.Disks) != 1 {
			return fmt.Errorf("%s, with %d disks, was never made", what, len(p.Disks))
		}
		got := memory(make([]byte, p.Disks[0].Size))
		if err := restore.Disk(ctx, opened, p.Disks[0], got, restore.Options{}); err != nil {
			return fmt.Errorf("%s is listed: %w", what, err)
		}
		if err := equal(got, known[n]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	for _, p := range v.told.points {
		if !listed[p] {
			return fmt.Errorf("point %s was announced and is not listed", p)
		}
	}
	return nil
}

// memory is a disk to restore onto.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func equal(got []byte, image string) error {
	want, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("it restores to other bytes than the guest had")
	}
	return nil
}

// target checks what a restore left.
func (v *view) target() error {
	if v.s.target == "" {
		return nil
	}
	folder, name := filepath.Split(v.s.target)
	for f := range v.disk.Files(folder) {
		base := filepath.Base(f.Path)
		if base != name && !(strings.HasPrefix(base, "."+name+".") && strings.HasSuffix(base, ".part")) {
			return fmt.Errorf("a restore left %s, which nobody can tell from a file of the user", base)
		}
	}
	got, err := v.disk.ReadFile(v.s.target)
	switch {
	case err == nil:
		known := v.s.images["guest.raw"]
		return equal(got, known[len(known)-1])
	case v.told.summary:
		return fmt.Errorf("the restored file was announced: %w", err)
	}
	return nil
}

// try puts a state back on the real disk, and uses it.
func (s *scenario) try(ctx context.Context, v *view) error {
	p := s.place
	if err := put(v.disk, p.Dir); err != nil {
		return err
	}
	defer func() { _ = put(s.ended, p.Dir) }()
	must := func(args ...string) error {
		e, err := p.Run(ctx, args...)
		if err == nil && e.Exit != 0 {
			err = e.Err(args...)
		}
		if err != nil {
			return fmt.Errorf("after the crash: %w", err)
		}
		return nil
	}
	image := filepath.Join(filepath.Dir(p.Dir), "guest.raw")
	if s.name == "init" {
		image = p.Path("password")
		if _, err := v.disk.Stat(filepath.Join(p.Vault, vault.ConfigName)); err != nil {
			if err := must("init", "--force"); err != nil {
				return err
			}
		}
	}
	if s.target != "" {
		if _, err := v.disk.Stat(s.target); err != nil {
			if err := must("restore", "guest.raw@latest", "--to", s.target); err != nil {
				return err
			}
		}
	}
	again := p.Path("again.raw")
	if err := errors.Join(must("points"), must("backup", image), must("restore", "latest", "--to", again)); err != nil {
		return err
	}
	got, err := os.ReadFile(again)
	if err != nil {
		return err
	}
	return equal(got, image)
}

// put makes a folder what it is on a disk.
func put(d *crashfs.Disk, folder string) error {
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	return d.Save(folder, folder)
}
