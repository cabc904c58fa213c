package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/workload"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// cost is what a command took, as seen from outside.
type cost struct {
	first time.Duration // until the first byte of what it restores was on disk; 0: none
	whole time.Duration
	// Bytes that it and its workers got from read calls of any kind, the program's
	// own start included. No file of a vault is mapped.
	readFirst, read int64
}

func (c cost) String() string {
	if c.first == 0 {
		return fmt.Sprintf("%.2f s and %d bytes read", c.whole.Seconds(), c.read)
	}
	return fmt.Sprintf("first byte after %.2f s and %d bytes read, the whole %.2f s and %d", c.first.Seconds(), c.readFirst, c.whole.Seconds(), c.read)
}

// running runs the program to its end and watches it.
func running(t *testing.T, p *rig.Place, restored string, args ...string) (rig.Ended, cost) {
	t.Helper()
	var c cost
	start := time.Now()
	job, err := p.Start(t.Context(), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	reads := map[int]int64{}
	for over := false; !over; {
		select {
		case <-job.Over():
			over = true
		case <-time.After(time.Millisecond):
		}
		c.read = 0
		for _, pid := range rig.Members(job.PID()) {
			reads[pid] = max(reads[pid], rig.HasRead(pid))
		}
		for _, n := range reads {
			c.read += n
		}
		if c.first == 0 && restored != "" && begun(restored) {
			c.first, c.readFirst = time.Since(start), c.read
		}
	}
	end, err := job.Wait()
	c.whole = time.Since(start)
	if err == nil && end.Exit != 0 {
		err = end.Err(args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return end, c
}

// begun reports whether a file that is being restored holds something.
func begun(path string) bool {
	folder, name := filepath.Split(path)
	parts, _ := filepath.Glob(filepath.Join(folder, "."+name+".*.part"))
	for _, f := range append(parts, path) {
		if info, err := os.Stat(f); err == nil && info.Sys().(*syscall.Stat_t).Blocks > 0 {
			return true
		}
	}
	return false
}

// From the vault alone, with the program itself on a folder: points, the newest and
// the oldest point restored, a backup that finds what there is, and the same with
// no snapshot of the catalog.
func TestTheProgramNeedsNothingButTheVault(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, points := range append([]int{1}, pointsWanted(t)...) {
		h, st := made(t, points, Options{Snapshots: true})
		folder := t.TempDir()
		p := &rig.Place{Program: program, Dir: folder, Vault: filepath.Join(folder, "vault")}
		if _, err := dir.Create(p.Vault); err != nil {
			t.Fatal(err)
		}
		if err := st.Dump(p.Vault); err == nil {
			err = os.WriteFile(p.Path("password"), []byte("password\n"), 0o600)
		} else {
			t.Fatal(err)
		}
		states := 0
		elsewhere := func() *rig.Place { // with a state folder that does not exist
			states++
			return p.With(p.Vault, p.Path(fmt.Sprint("state-", states)))
		}
		log := func(what string, c cost) { t.Logf("%5d points: %s: %s", points, what, c) }

		listed, c := running(t, elsewhere(), "", "points")
		log("points", c)
		var all []any
		if err := json.Unmarshal(bytes.Join(raw(listed), nil), &all); err != nil || len(all) != points {
			t.Errorf("%d of %d points are listed (%v)", len(all), points, err)
		}
		out := p.Path("restored.raw")
		_, c = running(t, elsewhere(), out, "restore", h.Points[points-1].Point.String(), "--to", out)
		log("restore the newest", c)
		held(t, points, c)
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, h.Disk(points-1)) {
			t.Errorf("%d points: the restored disk differs (%v)", points, err)
		}
		_, c = running(t, elsewhere(), p.Path("oldest.raw"), "restore", h.Points[0].Point.String(), "--to", p.Path("oldest.raw"))
		log("restore the oldest", c)
		held(t, points, c)
		backups(t, p, elsewhere, log)

		if err := os.RemoveAll(filepath.Join(p.Vault, "catalogs")); err != nil {
			t.Fatal(err)
		}
		_, c = running(t, elsewhere(), "", "points")
		log("points without a snapshot, the catalog made anew", c)
		if figures() && c.whole > 30*time.Second {
			t.Errorf("%d points: making the catalog anew took %s", points, c.whole)
		}
	}
}

// figures reports whether times are wanted, and held to what is promised.
func figures() bool { return os.Getenv("MILLRACE_POINTS") != "" }

// held holds a restore to what is promised for the first byte.
func held(t *testing.T, points int, c cost) {
	t.Helper()
	if c.first == 0 || c.readFirst > 64<<20 || figures() && c.first > 3*time.Second {
		t.Errorf("%d points: the first byte took %s", points, c)
	}
}

// backups backs a new guest up and again with an empty state folder.
func backups(t *testing.T, p *rig.Place, elsewhere func() *rig.Place, log func(string, cost)) {
	t.Helper()
	image := p.Path("disk.raw")
	if err := rig.Mixed(image, 32<<20, 5); err != nil {
		t.Fatal(err)
	}
	_, c := running(t, elsewhere(), "", "backup", image)
	log("backup of a new guest", c)
	before, err := rig.Bytes(filepath.Join(p.Vault, "packs"))
	if err != nil {
		t.Fatal(err)
	}
	end, c := running(t, elsewhere(), "", "backup", image)
	log("backup of the same", c)
	after, err := rig.Bytes(filepath.Join(p.Vault, "packs"))
	if err != nil || after != before || end.Summary().New != 0 || end.Summary().Stored != 0 {
		t.Errorf("with an empty state folder %d bytes were stored again, packs grew from %d to %d (%v)", end.Summary().Stored, before, after, err)
	}
	if _, err := workload.Scatter(image, 0.01, 9); err != nil {
		t.Fatal(err)
	}
	end, c = running(t, elsewhere(), "", "backup", image)
	log("backup of the same with 1 % changed", c)
	if end.Summary().Known+end.Summary().Same == 0 {
		t.Error("nothing was found again")
	}
	out := p.Path("again.raw")
	_, c = running(t, elsewhere(), out, "restore", "latest", "--to", out)
	log("restore of it", c)
	if same, err := rig.Equal(image, out); err != nil || !same {
		t.Errorf("the restored disk differs (%v)", err)
	}
}

func raw(e rig.Ended) (all [][]byte) {
	for _, l := range e.Lines {
		all = append(all, l.Raw)
	}
	return all
}
