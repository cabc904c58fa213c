package guest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestRunningGuest: a guest with two disks and its agent writes files all the time and is
// backed up meanwhile: whole, then by what its bitmaps say; with its agent, without, and
// with one that hangs; and again after a reset. What was synced before each instant is in
// each point, the file systems are sound, nothing is left in QEMU, the guest goes on, and
// what is restored boots.
func TestRunningGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines in software: some 40 s")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b := newBusy(ctx, t)

	frozen := b.point("--freeze", "require")
	b.wants(frozen, "fs-consistent", "full")
	b.wants(b.point(), "fs-consistent", "incremental")
	crash := b.point("--freeze", "never")
	b.wants(crash, "crash-consistent", "incremental")

	b.shell("touch /run/no-agent && killall qemu-ga")
	b.refused([]string{`"consistency"`, "no agent runs in the guest", "--freeze prefer"}, "--freeze", "require")
	b.shell("rm /run/no-agent")
	if err := b.m.AwaitAgent(ctx); err != nil {
		t.Fatal(err)
	}

	// An agent that hangs is given up, and the guest goes on.
	b.shell("killall -STOP qemu-ga")
	began := time.Now()
	p := b.point("--freeze", "prefer")
	b.wants(p, "crash-consistent", "incremental")
	if !strings.Contains(p.Why, "the guest agent does not answer") || time.Since(began) > time.Minute {
		t.Errorf("with an agent that hangs it took %v: %s", time.Since(began), p.Why)
	}
	b.shell("killall -CONT qemu-ga")
	b.thawed()
	b.unharmed()

	b.synced()
	if err := b.m.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	b.work()
	last := b.point("--freeze", "require")
	b.wants(last, "fs-consistent", "incremental")
	b.m.Stop()

	b.check(frozen)
	b.check(crash)
	if got, err := Boot(ctx, b.check(last), "raw"); err != nil || got.Boots != 3 {
		t.Errorf("the restored guest: %+v, %v", got, err)
	}
}
