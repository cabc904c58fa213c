package qemu_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/hypervisor/qemu/qemutest"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// TestPromises holds the driver to what every driver promises.
func TestPromises(t *testing.T) {
	drivertest.Run(t, func(tb testing.TB) drivertest.Subject {
		first := noise(1<<20, 3)
		path := qemutest.Image(tb, "qcow2", 8<<20, first)
		vm := qemutest.Start(tb, []qemutest.Disk{{Name: "a", Path: path, Format: "qcow2"}})
		want := vdisktest.NewSparse(8 << 20)
		_, _ = want.WriteAt(first, 0)
		o := qemu.Options{Vault: vault, Job: id.NewJob(), Folder: tb.TempDir(), State: tb.TempDir()}
		return drivertest.Subject{
			Driver: qemu.New(vm.Socket, o), Again: func() drivertest.Driver { return qemu.New(vm.Socket, o) },
			Want: map[string]vdisk.Image{"a": want}, Write: vm.Write, Isolated: true,
		}
	})
}

// TestCutAtEveryCommand cuts the QMP socket at each command of a freeze and its release,
// before and after QEMU has it. Where the driver can come back it undoes everything
// itself; where it cannot, the next job finds what is left and takes it away. In no case
// does the guest stand still, and the changes since the point before are known as if
// nothing had been.
func TestCutAtEveryCommand(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		for _, deliver := range []bool{false, true} {
			t.Run(fmt.Sprintf("refuse=%v,deliver=%v", refuse, deliver), func(t *testing.T) {
				t.Parallel()
				cutEverywhere(t, refuse, deliver)
			})
		}
	}
}

func cutEverywhere(t *testing.T, refuse, deliver bool) {
	a, b := qemutest.Image(t, "qcow2", size, noise(1<<20, 1)), qemutest.Image(t, "raw", size, noise(1<<20, 2))
	vm := qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: a, Format: "qcow2"}, {Name: "b", Path: b, Format: "raw"}})
	state := t.TempDir()
	p := qemutest.NewProxy(t, vm)
	vm.Socket = p.Socket // of all jobs
	base := newJob(t, vm, state)
	g := base.inspect()
	f := base.freeze(g)
	must(t, f.Release(t.Context(), true))
	for i := range g.Disks {
		g.Disks[i].Since = f.Tracking[i].Token
	}
	must(t, vm.Write("a", 5<<20, []byte("changed")))
	trials, step := 0, 1
	if refuse {
		step = 5 // the driver tries for a while
	}
	for n := 1; ; n += step {
		p.Cut(n, deliver, refuse)
		f, err := newJob(t, vm, state).Freeze(t.Context(), g, hypervisor.AppPreferred)
		if err == nil {
			err = f.Release(t.Context(), false)
		}
		if !p.Over() {
			must(t, err)
			break
		}
		trials++
		if !refuse {
			if left := vm.Left(); len(left) > 0 {
				t.Fatalf("cut at command %d (%s), %v: left in QEMU: %v", n, p.Last(), err, left)
			}
		}
		last := p.Last()
		p.Cut(0, false, false)
		next := newJob(t, vm, state)
		f = next.freeze(g)
		for r, err := range next.Changes(t.Context(), g.Disks[0]) {
			must(t, err)
			if want := (hypervisor.Range{Offset: 5 << 20, Length: 4096}); r != want {
				t.Fatalf("cut at command %d: changed %v, want %v", n, r, want)
			}
		}
		must(t, f.Release(t.Context(), false))
		if left := vm.Left(); len(left) > 0 {
			t.Fatalf("cut at command %d (%s): left in QEMU after the next job: %v", n, last, left)
		}
		if maps := vm.Bitmaps(); len(maps) != 2 {
			t.Fatalf("cut at command %d: bitmaps %v", n, maps)
		}
	}
	t.Logf("%d cuts", trials)
	if trials*step < 45 {
		t.Errorf("only %d commands were cut", trials)
	}
}

// TestGuardLetsTheGuestGoOn: who paused the guest dies; the guard lets it go on, and takes
// out what is left when the job is dead.
func TestGuardLetsTheGuestGoOn(t *testing.T) {
	path := qemutest.Image(t, "raw", size, noise(1<<20, 1))
	vm := qemutest.Start(t, []qemutest.Disk{{Name: "a", Path: path, Format: "raw"}})
	state := t.TempDir()
	p := qemutest.NewProxy(t, vm)
	vm.Socket = p.Socket
	j := newJob(t, vm, state)
	g := j.inspect()
	for n := 1; ; n++ {
		p.Cut(n, true, true)
		_, err := j.Freeze(t.Context(), g, hypervisor.CrashOnly)
		if err == nil {
			t.Fatal("the guest was never paused")
		}
		last := p.Last()
		p.Cut(0, false, false)
		if !strings.Contains(last, `"stop"`) {
			must(t, newJob(t, vm, state).freeze(g).Release(t.Context(), false)) // takes away what it has left
			continue
		}
		if left := vm.Left(); !strings.Contains(strings.Join(left, " "), "the guest is paused") {
			t.Fatalf("it is not as the test wants it: %v", left)
		}
		told := fmt.Sprintf(`{"path":%q,"vault":%q,"job":%q,"folder":%q,"state":%q}`+"\n"+`{"do":"held","limit":60000000000}`, vm.Socket, vault, j.o.Job, j.o.Folder, state)
		begun := time.Now()
		must(t, qemu.Guard(t.Context(), strings.NewReader(told)))
		if left := vm.Left(); len(left) > 0 {
			t.Fatalf("left after the guard: %v", left)
		}
		t.Logf("after %v", time.Since(begun))
		return
	}
}
