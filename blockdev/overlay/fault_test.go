package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/crashfile"
)

// faulty is a file whose disk is full, or whose syncs fail.
type faulty struct {
	*crashfile.File
	room *int64
	sync *error
}

func (f faulty) WriteAt(p []byte, off int64) (int, error) {
	if grow := max(0, off+int64(len(p))-f.Size()); grow <= *f.room {
		*f.room -= grow
		return f.File.WriteAt(p, off)
	}
	return 0, syscall.ENOSPC
}

func (f faulty) Sync() error { return errors.Join(*f.sync, f.File.Sync()) }

type faults struct {
	room int64
	sync error
	d    disks
}

func (f *faults) options() Options {
	on := func(c *crashfile.File) vdisk.File { return faulty{c, &f.room, &f.sync} }
	return Options{Size: diskSize, Seam: &Seam{Data: on(f.d.data), Journals: [2]vdisk.File{on(f.d.journals[0]), on(f.d.journals[1])}, Dead: 8}}
}

func block(n byte) []byte { return bytes.Repeat([]byte{n}, unitSize) }

func expect(t *testing.T, o *Overlay, unit int64, n byte) {
	t.Helper()
	p := make([]byte, unitSize)
	if must(t, o.ReadAt(p, unit*unitSize, zeros{})); !bytes.Equal(p, block(n)) {
		t.Fatalf("unit %d is of %d, not %d", unit, p[0], n)
	}
}

// A full disk fails writes and harms nothing. What is full can be opened, and goes on
// when there is room.
func TestFullDisk(t *testing.T) {
	f := &faults{room: 1 << 20, d: newDisks()}
	o, err := Create("", f.options())
	must(t, err)
	for n := range byte(60) { // the journal is written anew some times: both have remains of older ones
		_, err = o.WriteAt(block(n), int64(n%30)*unitSize)
		must(t, err)
		must(t, o.Flush())
	}
	_, err = o.WriteAt(block(90), 40*unitSize)
	must(t, err)
	f.room = 0
	for n := range byte(20) {
		_, err = o.WriteAt(bytes.Repeat(block(n), 40), int64(n%30)*unitSize)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("written to a full disk: %v", err)
		}
	}
	must(t, o.Flush())
	check := func() {
		for n := range byte(30) {
			expect(t, o, int64(n), n+30)
		}
		expect(t, o, 40, 90)
	}
	check()
	f.d.journals[1-o.now] = crashfile.New() // no room for the other journal
	o, err = Open("", f.options())
	must(t, err)
	check()
	if _, err = o.WriteAt(bytes.Repeat(block(1), 40), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("written to a full disk: %v", err)
	}
	f.room = 1 << 20
	for n := range byte(30) {
		_, err = o.WriteAt(block(n+30), int64(n)*unitSize)
		must(t, err)
	}
	must(t, o.Flush())
	check()
	f.d = f.d.crash(crashfile.Lost, 1)
	o, err = Open("", f.options())
	must(t, err)
	check()
}

// After a sync that failed nothing is written any more, however well the next one goes.
func TestFailedSync(t *testing.T) {
	bad := errors.New("bad sector")
	f := &faults{room: 1 << 20, d: newDisks()}
	o, err := Create("", f.options())
	must(t, err)
	_, err = o.WriteAt(block(1), 0)
	must(t, err)
	f.sync = bad
	if err := o.Flush(); !errors.Is(err, bad) {
		t.Fatalf("flushed: %v", err)
	}
	f.sync = nil
	_, err = o.WriteAt(block(2), 0)
	for what, err := range map[string]error{"write": err, "flush": o.Flush(), "trim": o.Trim(0, 512), "zeroes": o.WriteZeroes(0, 1<<20)} {
		if !errors.Is(err, bad) {
			t.Errorf("%s: %v", what, err)
		}
	}
	expect(t, o, 0, 1)
}

// What was not made whole is not there, and can be made again.
func TestHalfMade(t *testing.T) {
	folder := t.TempDir()
	o := Options{Size: 1 << 20}
	for _, name := range []string{"data", "journal.0"} {
		must(t, os.WriteFile(filepath.Join(folder, name), nil, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(folder, "journal.1"), make([]byte, 100), 0o600))
	if _, err := Open(folder, o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened: %v", err)
	}
	x, err := Create(folder, o)
	must(t, err)
	if _, err := Create(folder, o); !errors.Is(err, fs.ErrExist) || !errors.Is(err, ErrLocked) {
		t.Errorf("made while it is open: %v", err)
	}
	must(t, x.Close())
	// One whose headers are gone is damaged, and not made again over what is left.
	x, err = Open(folder, o)
	must(t, err)
	_, err = x.WriteAt(block(1), 0)
	must(t, errors.Join(err, x.Close()))
	for _, name := range []string{"journal.0", "journal.1"} {
		must(t, os.Truncate(filepath.Join(folder, name), 0))
	}
	if _, err := Open(folder, o); !errors.Is(err, ErrDamaged) {
		t.Errorf("opened: %v", err)
	}
	if _, err := Create(folder, o); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made over what is left: %v", err)
	}
}

// A guest that never flushes does not fill the disk.
func TestNeverFlushed(t *testing.T) {
	f := &faults{room: 1 << 30, d: newDisks()}
	opts := f.options()
	opts.Seam.Behind = 64
	o, err := Create("", opts)
	must(t, err)
	for n := range 3000 {
		_, err := o.WriteAt(block(byte(n)), int64(n%20)*unitSize)
		must(t, err)
	}
	for range 10_000 {
		must(t, o.Trim(100*unitSize, 100*unitSize))
	}
	if s := o.Stats(); s.Data > 200*unitSize || s.Journal > headerSize+4000*recordSize {
		t.Errorf("%+v", s)
	}
}

// A flipped bit is damage, also in a journal that was written anew: in its header, its last
// record, anywhere. So are data that are cut off.
func TestFlippedAnew(t *testing.T) {
	folder := t.TempDir()
	opts := Options{Size: 1 << 20}
	o, err := Create(folder, opts)
	must(t, err)
	for n := range int64(6) {
		_, err = o.WriteAt(block(byte(n)), n*2*unitSize)
		must(t, err)
	}
	must(t, o.Close())
	o, err = Open(folder, opts)
	must(t, err)
	must(t, o.Close())
	path := filepath.Join(folder, "journal.1")
	good, err := os.ReadFile(path)
	must(t, err)
	for at := 0; at < len(good); at++ {
		if at > 100 && at < headerSize-4 {
			continue // zeros under the same sum
		}
		bad := slices.Clone(good)
		bad[at] ^= 1 << (at % 8)
		must(t, os.WriteFile(path, bad, 0o600))
		if _, err := Open(folder, opts); !errors.Is(err, ErrDamaged) || at >= headerSize && !strings.Contains(err.Error(), "journal.1: journal at 4") {
			t.Fatalf("bit in byte %d flipped: %v", at, err)
		}
	}
	must(t, os.WriteFile(path, good, 0o600))
	must(t, os.Truncate(filepath.Join(folder, "data"), 5*unitSize+100))
	if _, err := Open(folder, opts); !errors.Is(err, ErrDamaged) {
		t.Errorf("data cut off: %v", err)
	}
}

// No slot is that of two places: a journal that says so would let one guest's write show elsewhere.
func TestSlotOfTwo(t *testing.T) {
	d := newDisks()
	h := header{epoch: 1, size: diskSize, name: identity(""), lines: 2}
	b := append(h.encode(), make([]byte, 2*recordSize)...)
	record{kind: kindData, mask: allSectors, seq: 1, unit: 3, count: 4, slot: 0}.encode(b[headerSize:], 1)
	record{kind: kindData, mask: allSectors, seq: 2, unit: 9, count: 1, slot: 3}.encode(b[headerSize+recordSize:], 1)
	_, err := d.journals[0].WriteAt(b, 0)
	must(t, err)
	_, err = d.data.WriteAt(make([]byte, 4*unitSize), 0)
	must(t, err)
	if err := d.over().recover(identity("")); !errors.Is(err, ErrDamaged) {
		t.Errorf("opened: %v", err)
	}
}

// A process that is killed has written all that it was told is written.
func TestKilled(t *testing.T) {
	const of = "OVERLAY_TO_KILL"
	opts := Options{Size: 1 << 30, Over: "x"}
	if folder := os.Getenv(of); folder != "" {
		o, err := Open(folder, opts)
		must(t, err)
		for n := uint64(1); ; n++ {
			p := make([]byte, 1536)
			binary.LittleEndian.PutUint64(p, n)
			_, err := o.WriteAt(p, int64(n*7919%300_000)*512)
			must(t, err)
			fmt.Println(n)
		}
	}
	folder := t.TempDir()
	o, err := Create(folder, opts)
	must(t, errors.Join(err, o.Close()))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), of+"="+folder)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var last uint64
	for last < 2000 {
		if _, err := fmt.Fscanln(out, &last); err != nil {
			t.Fatal(err)
		}
	}
	must(t, cmd.Process.Kill())
	for { // what it said before the end counts
		var n uint64
		if _, err := fmt.Fscanln(out, &n); errors.Is(err, io.EOF) || err != nil {
			break
		}
		last = max(last, n)
	}
	_ = cmd.Wait()
	o, err = Open(folder, opts)
	must(t, err)
	defer o.Close()
	p := make([]byte, 8)
	for n := last; n > 0; n-- {
		must(t, o.ReadAt(p, int64(n*7919%300_000)*512, zeros{}))
		if got := binary.LittleEndian.Uint64(p); got != n {
			t.Fatalf("write %d of %d is not there but %d", n, last, got)
		}
	}
}
