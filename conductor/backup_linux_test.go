package conductor

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor/folder"
)

// Whatever the parcel size, the number of workers and so the order, the same
// input under the same keys gives the same tables.
func TestTablesDependOnInputAndKeysAlone(t *testing.T) {
	b := newBed(t, 130<<20+4096*3+100) // the last block is short
	variants := []Options{
		{},
		{ParcelSize: 4 << 20},
		{ParcelSize: 16 << 20, Parallel: map[string]int{flow.Reader: 2, flow.Chunker: 2, flow.Delta: 2, flow.Seal: 3, flow.Uploader: 2}},
		{Parallel: map[string]int{flow.Seal: 1}, Memory: 24 << 20, Codec: "zstd"},
		{Transport: flow.Inline},
		{Transport: flow.Inline, Parallel: map[string]int{flow.Reader: 2, flow.Chunker: 2, flow.Seal: 3, flow.Uploader: 2}, Memory: 16 << 20},
	}
	var first events.Hash
	for n, v := range variants {
		o := b.options(t)
		o.Scan, o.ParcelSize, o.Parallel, o.Memory, o.Codec, o.Transport = "full", v.ParcelSize, v.Parallel, v.Memory, v.Codec, v.Transport
		s, err := Backup(t.Context(), o)
		if err != nil || s.Outcome != "done" || s.SlotsLeft != 0 {
			t.Fatalf("variant %d: outcome %q, %v, %d slots left, guests %+v", n, s.Outcome, err, s.SlotsLeft, s.Guests)
		}
		sum(t, s)
		state := b.check(t)
		root := state.Points[s.Points()[0]].Disks[0].Root
		if n == 0 {
			first = root
		} else if root != first {
			t.Errorf("variant %d: root %s, want %s", n, root, first)
		}
		if n > 0 && s.Finished.NewBytes != 0 {
			t.Errorf("variant %d: %d new bytes in a vault that has them all", n, s.Finished.NewBytes)
		}
	}
}

// sum checks that every byte of every disk is accounted for exactly once.
func sum(t *testing.T, s Summary) {
	t.Helper()
	f := s.Finished
	if got := f.ZeroBytes + f.UnchangedBytes + f.KnownBytes + f.NewBytes; got != f.DiskBytes {
		t.Errorf("zero %d + unchanged %d + known %d + new %d = %d, the disks have %d", f.ZeroBytes, f.UnchangedBytes, f.KnownBytes, f.NewBytes, got, f.DiskBytes)
	}
}

// A second backup stores what changed: data over data, data over a hole, a hole
// over data. More backups than a point may have layers all restore equal.
func TestOnlyChangesAreStored(t *testing.T) {
	b := newBed(t, 96<<20)
	rng := rand.New(rand.NewPCG(7, 7))
	for n := range 11 {
		s, err := Backup(t.Context(), b.options(t))
		if err != nil || s.Outcome != "done" {
			t.Fatalf("backup %d: outcome %q, %v, %+v", n, s.Outcome, err, s.Guests)
		}
		sum(t, s)
		p := b.check(t).Points[s.Points()[0]]
		if layers := len(p.Disks[0].Extents); layers > 8 {
			t.Errorf("backup %d: %d layers", n, layers)
		}
		if n > 0 && s.Finished.NewBytes > 4<<20 {
			t.Errorf("backup %d: %d bytes are new, about 1 MiB was changed", n, s.Finished.NewBytes)
		}
		if n == 5 { // once with nothing changed
			s, err := Backup(t.Context(), b.options(t))
			if err != nil || s.Finished.NewBytes+s.Finished.KnownBytes != 0 || s.Finished.StoredBytes != 0 {
				t.Fatalf("nothing changed: %v, new %d, known %d, stored %d", err, s.Finished.NewBytes, s.Finished.KnownBytes, s.Finished.StoredBytes)
			}
		}
		change(t, b.image, rng)
	}
}

func change(t *testing.T, path string, rng *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for n := range 24 {
		at := rng.Int64N(96<<20/4096) * 4096
		for i := range block {
			block[i] = byte(rng.Uint32())
		}
		if n%6 == 0 {
			clear(block)
		}
		if _, err := f.WriteAt(block, at); err != nil {
			t.Fatal(err)
		}
	}
	punch(t, f, rng.Int64N(96<<20/4096)*4096, 64<<10)
}

// A guest that cannot be read gets no point and says why; the other one does.
func TestOneGuestFailsTheOtherDoesNot(t *testing.T) {
	b := newBed(t, 20<<20)
	o := b.options(t)
	other := filepath.Join(t.TempDir(), "other.raw")
	writeImage(t, other, 8<<20)
	more, err := folder.New(other, folder.Options{Vault: b.vault.ID}).Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.Guests = append(more, o.Guests...)
	if err := os.Truncate(other, 4<<20); err != nil { // after it was inspected
		t.Fatal(err)
	}
	s, err := Backup(t.Context(), o)
	if err != nil || s.Outcome != "part" || len(s.Points()) != 1 {
		t.Fatalf("outcome %q, %v, %d points", s.Outcome, err, len(s.Points()))
	}
	g := s.Guests[0]
	if g.Outcome != "failed" || g.Code != "source-changed" || g.Cause == "" || g.Remedy == "" || g.Object == "" {
		t.Errorf("the failed guest: %+v", g)
	}
	sum(t, s)
	b.check(t)
}

// An interrupted job says so, lists nothing, and what it stored is found by the next.
func TestInterruptedJob(t *testing.T) {
	b := newBed(t, 400<<20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := b.options(t)
	o.Parallel = map[string]int{flow.Seal: 1}
	o.Observe = func(u Update) {
		if u.Progress.PackBytes > 0 {
			cancel()
		}
	}
	s, err := Backup(ctx, o)
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != "interrupted" || s.Outcome != "interrupted" || len(s.Points()) != 0 {
		t.Fatalf("outcome %q, %v, points %v", s.Outcome, err, s.Points())
	}
	again, err := Backup(t.Context(), b.options(t))
	if err != nil || again.Outcome != "done" {
		t.Fatalf("the next job: %q, %v", again.Outcome, err)
	}
	if again.Finished.KnownBytes == 0 {
		t.Error("the next job found nothing of what the interrupted one had stored")
	}
	b.check(t)
}

// A job that only starts and stops takes a fraction of a second.
func TestTinyGuest(t *testing.T) {
	b := newBed(t, 1)
	start := time.Now()
	s, err := Backup(t.Context(), b.options(t))
	if err != nil || s.Outcome != "done" {
		t.Fatalf("outcome %q, %v, %+v", s.Outcome, err, s.Guests)
	}
	sum(t, s)
	b.check(t)
	t.Logf("a guest of one byte: %v", time.Since(start))
}

// Fewer slots than workers: nobody may sit on the last one with nothing to put
// into it.
func TestFewerSlotsThanWorkers(t *testing.T) {
	for _, parallel := range []map[string]int{{flow.Reader: 2}, {flow.Seal: 6}} {
		b := newBed(t, 64<<20)
		o := b.options(t)
		o.Memory, o.Parallel = 16<<20, parallel
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		s, err := Backup(ctx, o)
		cancel()
		if err != nil || s.Outcome != "done" || s.SlotsLeft != 0 {
			t.Fatalf("%v: outcome %q, %v, %d slots left", parallel, s.Outcome, err, s.SlotsLeft)
		}
		b.check(t)
	}
}

// A worker that is stopped says nothing and holds up the job, being the only one of
// its stage. It is killed and replaced, and its slots are freed after that.
func TestStoppedWorkerIsReplaced(t *testing.T) {
	for _, stage := range []string{flow.Reader, flow.Indexer} {
		b := newBed(t, 64<<20)
		o := b.options(t)
		o.mute = 2 * time.Second
		var once sync.Once
		o.Started = func(s string, _ uint32, pid int) {
			if s == stage {
				once.Do(func() { _ = syscall.Kill(pid, syscall.SIGSTOP) })
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		s, err := Backup(ctx, o)
		cancel()
		if err != nil || s.Outcome != "done" || s.SlotsLeft != 0 {
			t.Fatalf("%s: outcome %q, %v, %d slots left", stage, s.Outcome, err, s.SlotsLeft)
		}
		b.check(t)
	}
}
