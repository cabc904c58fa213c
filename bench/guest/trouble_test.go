package guest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuestsInTrouble does to running guests, and to their agents, what does not happen
// every day, at the moments when it hurts most.
func TestGuestsInTrouble(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines in software: minutes")
	}
	for _, c := range []struct {
		name string
		test func(*busy)
	}{
		{"turned off and on", turnedOff}, {"agent dies while frozen", agentDies}, {"freeze hangs", freezeHangs},
		{"job dies while frozen", jobDies}, {"reset", resets}, {"slow disks", slowDisks},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			c.test(newBusy(ctx, t))
		})
	}
}

// again starts the guest after it has ended, and has it write.
func (b *busy) again() {
	b.Helper()
	if err := b.m.Again(b.ctx); err != nil {
		b.Fatal(err)
	}
	b.work()
}

// A QEMU that ends as it should keeps the bitmaps of qcow2 images, and of no others; one
// that is killed keeps none. Each disk for which there is none is read whole, and it is
// said why.
func turnedOff(b *busy) {
	b.wants(b.point(), "fs-consistent", "full")
	b.synced()
	if err := b.m.PowerOff(); err != nil {
		b.Fatal(err)
	}
	b.again()
	kept := b.point()
	b.wants(kept, "fs-consistent", "incremental")
	if !strings.Contains(kept.Reason, "changes of 1 of 2 disks") || !strings.Contains(kept.Reason, "disk1") || !strings.Contains(kept.Reason, "an image that keeps none") {
		b.Errorf("the reason is %q", kept.Reason)
	}
	if story := string(b.run("audit", "show")); !strings.Contains(story, "an image that keeps none") {
		b.Errorf("audit show does not say why disk1 was read whole:\n%s", story)
	}
	b.wants(b.point(), "fs-consistent", "incremental")

	b.synced()
	_ = b.m.cmd.Process.Kill()
	for range b.m.said {
		continue
	}
	_ = b.m.cmd.Wait()
	b.again()
	lost := b.point()
	if lost.Scan == "incremental" || !strings.Contains(lost.Reason, "after its QEMU was killed") {
		b.Errorf("after a kill of QEMU: %s (%s)", lost.Scan, lost.Reason)
	}
	b.wants(b.point(), "fs-consistent", "incremental")
	b.m.Stop()
	b.check(kept)
	b.check(lost)
}

// between gets between the driver and the agent, until the returned function is called:
// when the agent has frozen the guest, and before that is told, it calls frozen, once.
func (b *busy) between(frozen func()) (end func()) {
	b.Helper()
	real := b.m.Agent + "2"
	err := os.Rename(b.m.Agent, real)
	l, listening := net.Listen("unix", b.m.Agent)
	if err != nil || listening != nil {
		b.Fatal(err, listening)
	}
	var asked, done atomic.Bool
	serve := func(c net.Conn) {
		defer c.Close()
		q, err := net.Dial("unix", real)
		if err != nil {
			return
		}
		go func() {
			defer q.Close()
			for buf := make([]byte, 4096); ; {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if bytes.Contains(buf[:n], []byte("guest-fsfreeze-freeze")) {
					asked.Store(true)
				}
				if _, err := q.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
		for buf := make([]byte, 4096); ; {
			n, err := q.Read(buf)
			if err != nil {
				return
			}
			if asked.Load() && done.CompareAndSwap(false, true) {
				frozen()
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return func() {
		b.Helper()
		_ = l.Close()
		if err := os.Rename(real, b.m.Agent); err != nil {
			b.Fatal(err)
		}
		if !done.Load() {
			b.Error("the guest was not frozen")
		}
	}
}

// An agent is killed, or hangs, when it has frozen the guest: the point is what the freeze
// made it, and the guest goes on as soon as there is an agent that can let it.
func agentDies(b *busy) {
	b.wants(b.point(), "fs-consistent", "full")

	// It is started anew at once, as systemd does.
	end := b.between(func() { b.shell("killall -KILL qemu-ga") })
	killed := b.point("--freeze", "require")
	end()
	b.wants(killed, "fs-consistent", "incremental")
	b.thawed()

	for _, c := range []struct{ hit, mend string }{
		{"killall -STOP qemu-ga", "killall -CONT qemu-ga"},
		{"touch /run/no-agent && killall -KILL qemu-ga", "rm /run/no-agent"}, // it comes back when the job is over
	} {
		end = b.between(func() { b.shell(c.hit) })
		b.goesOn(1)
		began := time.Now()
		b.summarize("qemu:" + b.m.QMP)
		b.Logf("%s: the job took %v", c.hit, time.Since(began))
		for _, f := range b.facts() { // it was frozen when the thaw was given up
			if f.Type == "SnapshotTaken" && (f.Consistency != "fs-consistent" || f.FreezeNS < 5e9 || !strings.Contains(f.Reason, "could not be thawed at once")) {
				b.Errorf("%s: %+v", c.hit, f)
			}
		}
		b.shell(c.mend)
		b.unharmed() // or the guest stays frozen
		end()
		if err := b.m.AwaitAgent(b.ctx); err != nil {
			b.Fatal(err)
		}
		b.thawed()
		b.wants(b.point("--freeze", "require"), "fs-consistent", "incremental")
	}
	b.m.Stop()
	b.check(killed)
}

// A hook in the guest fails, or never ends.
func freezeHangs(b *busy) {
	b.shell(`printf '#!/bin/sh\nexit 1\n' > /run/hook; chmod +x /run/hook`)
	refused := b.point()
	b.wants(refused, "crash-consistent", "full")
	if !strings.Contains(refused.Why, "the guest agent refuses") {
		b.Errorf("a hook that fails: %s", refused.Why)
	}
	b.thawed()

	b.shell(`printf '#!/bin/sh\n[ $1 = thaw ] || sleep 1000\n' > /run/hook`)
	began := time.Now()
	hangs := b.point()
	b.wants(hangs, "crash-consistent", "incremental")
	if took := time.Since(began); !strings.Contains(hangs.Why, "the guest agent does not answer") || took < 10*time.Second || took > time.Minute {
		b.Errorf("a hook that hangs: %s, after %v", hangs.Why, took)
	}
	// It ends now: the freeze that was given up comes true, and must not last.
	b.shell("killall sleep; rm /run/hook")
	b.goesOn(20)
	b.thawed()
	b.wants(b.point("--freeze", "require"), "fs-consistent", "incremental")
	b.m.Stop()
	b.check(hangs)
}

// The job's process is killed when the guest is frozen.
func jobDies(b *busy) {
	b.wants(b.point(), "fs-consistent", "full")
	b.synced()
	c := b.command("backup", "qemu:"+b.m.QMP)
	end := b.between(func() { _ = c.Process.Kill() })
	began := time.Now()
	if out, err := c.CombinedOutput(); err == nil {
		b.Errorf("it has not been killed: %s", out)
	}
	b.goesOn(1)
	b.Logf("%v after the job began to die the guest goes on", time.Since(began))
	end()
	b.thawed()
	p := b.point("--freeze", "require")
	b.wants(p, "fs-consistent", "incremental")
	b.m.Stop()
	b.check(p)
}

// The guest is reset when it is frozen, and while it is read.
func resets(b *busy) {
	b.wants(b.point(), "fs-consistent", "full")
	end := b.between(func() {
		if err := b.m.Command(b.ctx, "system_reset", nil, nil); err != nil {
			b.Error(err)
		}
	})
	b.synced()
	b.summarize("qemu:" + b.m.QMP)
	end()
	if err := b.m.ready(b.ctx); err != nil {
		b.Fatal(err)
	}
	b.work()
	b.unharmed()
	b.thawed()
	b.wants(b.point("--freeze", "require"), "fs-consistent", "incremental")

	b.goesOn(1)
	c := b.command("backup", "--scan", "full", "--limit-read", "5MiB", "qemu:"+b.m.QMP)
	files := b.synced()
	out := &bytes.Buffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.goesOn(10)
	if err := b.m.Reset(b.ctx); err != nil {
		b.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		b.Fatalf("a job during which the guest was reset: %v: %s", err, out)
	}
	b.work()
	p := b.point()
	b.wants(p, "fs-consistent", "incremental")
	if p.files[2] < files {
		b.Errorf("%d files, %d", p.files[2], files)
	}
	b.m.Stop()
	system := b.check(p)
	if _, err := Boot(b.ctx, system, "raw"); err != nil {
		b.Error(err)
	}
	if said, err := exec.CommandContext(b.ctx, "qemu-img", "check", b.system).CombinedOutput(); err != nil {
		b.Errorf("qemu-img check: %v: %s", err, said)
	}
}

// A job whose guest's requests take too long reads slowly, and says so. No disk is as
// quick as is asked for.
func slowDisks(b *busy) {
	b.point("--limit-read", "8MiB", "--guest-latency", "1us")
	if story := string(b.run("audit", "show")); !strings.Contains(story, "its requests took up to ") || strings.Contains(story, "it was read slowly for 0.000 s") {
		b.Errorf("nothing is told of how the guest fared:\n%s", story[:min(len(story), 2000)])
	}
}
