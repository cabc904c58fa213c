package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
)

// guest is a QEMU with a qcow2 disk a and a raw disk b, and what its guest has written.
type guest struct {
	*place
	vm   *qemutest.VM
	disk map[string][]byte // as the guest sees them
	file map[string]string
}

const diskSize = 48 << 20

func newGuest(t *testing.T, exe string) *guest {
	t.Helper()
	g := &guest{place: newPlace(t, exe, filepath.Join(t.TempDir(), "vault")), disk: map[string][]byte{}, file: map[string]string{}}
	var disks []qemutest.Disk
	for n, name := range []string{"a", "b"} {
		b := make([]byte, diskSize)
		_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b[:diskSize*2/3])
		format := []string{"qcow2", "raw"}[n]
		g.disk[name], g.file[name] = b, qemutest.Image(t, format, diskSize, b[:diskSize*2/3])
		disks = append(disks, qemutest.Disk{Name: name, Path: g.file[name], Format: format})
	}
	g.vm = qemutest.Start(t, disks)
	return g
}

func (g *guest) write(name string, at int, b []byte) {
	g.Helper()
	if err := g.vm.Write(name, int64(at), b); err != nil {
		g.Fatal(err)
	}
	copy(g.disk[name][at:], b)
}

// listed is what points --json says of a point.
type listed struct {
	ID, Consistency, Scan string
	Reason                string `json:"scan_reason"`
}

// backup makes a point, which must restore as the disks are, and says what is listed of it.
func (g *guest) backup(args ...string) (line, listed) {
	g.Helper()
	r := g.start(append([]string{"backup", "qemu:" + g.vm.Socket}, args...)...)
	s := r.end(0)
	if s.Zero+s.Unchanged+s.Known+s.New != s.Disk {
		g.Errorf("the kinds of bytes do not add up: %+v", s)
	}
	if left := g.vm.Left(); len(left) > 0 {
		g.Errorf("left in QEMU after job %s: %v\n%s", s.Job, left, r.stderr.String())
	}
	out := filepath.Join(g.T.TempDir(), "out")
	g.run(0, "restore", "latest", "--to", out, "--format", "raw")
	for name, want := range g.disk {
		file := filepath.Join(out, name+".raw")
		if len(g.disk) == 1 {
			file = out
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != string(want) {
			g.Fatalf("disk %s of %d bytes, %v, is not as the guest has it", name, len(got), err)
		}
	}
	var points []listed
	g.show("points", &points)
	for _, p := range points {
		if p.ID == s.Points[0] {
			return s, p
		}
	}
	g.Fatalf("point %s is not listed", s.Points[0])
	return line{}, listed{}
}

// TestGuestOnQEMU: a guest in a real QEMU, whose disks change here and there, backed up by
// what its bitmaps say; and what is said when that cannot be.
func TestGuestOnQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("jobs and QEMUs")
	}
	t.Parallel()
	exe := program(t)
	for name, test := range map[string]func(*testing.T, string){
		"increments": qemuIncrements, "a tracker that lies": qemuTrackerLies, "lost hashes": qemuLostHashes, "sources": qemuSources,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, exe)
		})
	}
}

// Few blocks are read and stored, with bitmaps of either granularity, where data was and
// where nothing was; a job that is given up does not make the next one read more.
func qemuIncrements(t *testing.T, exe string) {
	for _, granularity := range []string{"4KiB", "64KiB"} {
		t.Run(granularity, func(t *testing.T) {
			g := newGuest(t, exe)
			_, p := g.backup("--bitmap-granularity", granularity)
			if p.Scan != "full" || p.Reason != "first point of this guest" || p.Consistency != "crash-consistent" {
				t.Errorf("the first point: %+v", p)
			}
			rng := rand.New(rand.NewPCG(4, 4))
			for round := range 3 {
				changed := int64(0)
				for range 20 {
					block := make([]byte, 4096)
					_, _ = rand.NewChaCha8([32]byte{byte(rng.Uint32()), byte(rng.Uint32())}).Read(block)
					g.write([]string{"a", "b"}[rng.IntN(2)], rng.IntN(diskSize/4096)*4096, block)
					changed += 4096
				}
				if round == 1 {
					r := g.start("backup", "qemu:"+g.vm.Socket, "--limit-read", "64KiB", "--scan", "full")
					r.until(func(l line) bool { return l.Type == "fact" && l.Kind == "ChangesResolved" })
					_ = r.cmd.Process.Signal(os.Interrupt)
					r.end(130)
				}
				s, p := g.backup("--bitmap-granularity", granularity)
				if p.Scan != "incremental" || !strings.Contains(p.Reason, "the bitmap tells what has changed since point ") {
					t.Errorf("round %d: %+v", round, p)
				}
				most := changed * 11 / 10
				if granularity == "64KiB" {
					most = changed * 16
				}
				if s.Read > most || s.New+s.Known > changed*11/10 {
					t.Errorf("round %d: %d bytes changed; read %d, new %d, known %d", round, changed, s.Read, s.New, s.Known)
				}
			}
		})
	}
}

// A disk that changes behind QEMU's back, as when somebody goes back to an older state of
// it: the sample finds it, and all is read.
func qemuTrackerLies(t *testing.T, exe string) {
	g := newGuest(t, exe)
	g.backup()
	f, err := os.OpenFile(g.file["b"], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lie := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(lie)
	if _, err := f.WriteAt(lie, 4<<20); err != nil {
		t.Fatal(err)
	}
	copy(g.disk["b"][4<<20:], lie)
	_, p := g.backup()
	if p.Scan != "incremental" || !strings.Contains(p.Reason, "disk b is read whole: the bitmap calls byte ") || !strings.Contains(p.Reason, "changes of 1 of 2 disks") {
		t.Errorf("%+v", p)
	}
	if _, p := g.backup(); p.Scan != "incremental" || strings.Contains(p.Reason, "whole") {
		t.Errorf("the next one: %+v", p)
	}
}

// A host that has lost what it knows of blocks reads the cells that have changed, whole.
func qemuLostHashes(t *testing.T, exe string) {
	g := newGuest(t, exe)
	g.backup()
	found, err := filepath.Glob(filepath.Join(g.state, "cache", "*", "blocks", "*"))
	if err != nil || len(found) != 2 {
		t.Fatalf("%v, %v", found, err)
	}
	for _, f := range found {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		g.write("a", 5<<20+round*12288, []byte("changed"))
		s, p := g.backup()
		if want := []int64{4 << 20, 4096, 4096}[round]; p.Scan != "incremental" || s.Read != want {
			t.Errorf("round %d: read %d, want %d; %+v", round, s.Read, want, p)
		}
	}
}

// What is no running guest, and a consistency that cannot be had, are said so.
func qemuSources(t *testing.T, exe string) {
	g := newGuest(t, exe)
	source := "qemu:" + g.vm.Socket
	r := g.start("backup", source, "--freeze", "require")
	r.end(3)
	g.fault(r.guestFault(), "consistency", "freeze", g.vm.Socket, "no port for an agent", "--freeze prefer")
	if left := g.vm.Left(); len(left) > 0 {
		t.Errorf("left in QEMU: %v", left)
	}
	for path, cause := range map[string]string{g.path("none"): "no such file", g.file["a"]: "this is no socket", g.vm.Socket + "2": "another program has this QMP socket"} {
		r := g.start("backup", "qemu:"+path)
		for _, err := r.read(); err == nil; _, err = r.read() {
			continue
		}
		_ = r.cmd.Wait()
		if said := fmt.Sprintf("%+v", r.lines); !strings.Contains(said, cause) || r.cmd.ProcessState.ExitCode() == 0 {
			t.Errorf("%s: exit %d, %s", path, r.cmd.ProcessState.ExitCode(), said)
		}
	}
	g.points(0)
	delete(g.disk, "b")
	if s, _ := g.backup("--disk", "a"); s.Disk != diskSize {
		t.Errorf("%+v", s)
	}
	if show := g.text("show", "latest"); !strings.Contains(show, "pc-q35") || !strings.Contains(show, "virtio-blk-pci") {
		t.Errorf("the configuration is not shown: %s", show)
	}
}
