package main

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/apart"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// TestShred shreds guests as their owner, their backup and a power switch may have it.
func TestShred(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the program a hundred times")
	}
	t.Parallel()
	exe := program(t)
	t.Run("nobody can read it", func(t *testing.T) { nobodyReads(t, exe) })
	t.Run("while it is backed up", func(t *testing.T) { shredWhileBackedUp(t, exe) })
	t.Run("killed", func(t *testing.T) { killedShred(t, exe) })
}

const marker = "the patient's name is Ada Example;"

// marked is a disk that says something which can be looked for.
func (p *place) marked(name string) string {
	p.Helper()
	text := bytes.Repeat([]byte(name+": "+marker+"\n"), 1<<20/40)
	must(p.T, os.WriteFile(p.path(name), text, 0o600))
	return p.path(name)
}

// decrypted looks for what a guest's disk says in everything that opens with the password
// and all keys that are in the vault: each chunk of each pack, under the keys of any
// domain. It is how an attacker would do it who has the vault, the password and this
// program's source.
func (p *place) decrypted(want string) (found int) {
	p.Helper()
	ctx := p.Context()
	st, err := dir.Open(p.vault)
	must(p.T, err)
	v, err := vault.Open(ctx, st, []byte("correct horse"))
	must(p.T, err)
	domains := []id.Domain{v.Config.DefaultDomain}
	for e, err := range st.List(ctx, apart.Prefix) {
		must(p.T, err)
		if d, ok := apart.DomainOf(e.Name); ok {
			domains = append(domains, d)
		}
	}
	for e, err := range st.List(ctx, "packs/") {
		must(p.T, err)
		parts := strings.Split(e.Name, "/")
		var job id.Job
		var pack id.Object
		must(p.T, job.UnmarshalText([]byte(parts[1])))
		must(p.T, pack.UnmarshalText([]byte(parts[2])))
		info, err := vault.ReadPackFooter(ctx, st, v.Keys, job, pack)
		must(p.T, err)
		for _, c := range info.Entries {
			sealed := make([]byte, c.Stored)
			_, err := st.Get(ctx, e.Name, int64(c.Offset), sealed)
			must(p.T, err)
			for _, d := range append(domains, info.Domain) {
				frame, err := v.Keys.OpenChunk(nil, d, c.Chunk, sealed)
				if err != nil {
					continue
				}
				plain, err := vault.DecodeFrame(nil, frame, vault.MaxChunk)
				if err == nil && bytes.Contains(plain, []byte(want)) {
					found++
				}
			}
		}
	}
	return found
}

// inClear looks for bytes in the files below a folder.
func inClear(t *testing.T, folder string, want []byte) (in []string) {
	t.Helper()
	must(t, filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, want) {
			in = append(in, path)
		}
		return err
	}))
	return in
}

// idKey is the secret that names the chunks of the one domain there is.
func (p *place) idKey() (key [32]byte) {
	p.Helper()
	st, err := dir.Open(p.vault)
	must(p.T, err)
	v, err := vault.Open(p.Context(), st, []byte("correct horse"))
	must(p.T, err)
	for e, err := range st.List(p.Context(), apart.Prefix) {
		must(p.T, err)
		d, _ := apart.DomainOf(e.Name)
		key, err = v.Keys.IDKey(d)
		must(p.T, err)
	}
	return key
}

// replay wants the ledger to fold to what was said of it.
func (p *place) replay() {
	p.Helper()
	if out, err := p.command("audit", "replay").CombinedOutput(); err != nil {
		p.Fatalf("replay: %v\n%s", err, out)
	}
}

func nobodyReads(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	web, mail := p.marked("web.raw"), p.marked("mail.raw")
	p.run(0, "backup", web, "--domain", "guest")
	p.run(0, "key", "rotate")
	p.run(0, "backup", mail)
	p.run(0, "backup", web, "--scan", "full")
	if p.decrypted("web.raw: "+marker) == 0 || p.decrypted("mail.raw: "+marker) == 0 {
		t.Fatal("the search does not find what can be read")
	}
	key := p.idKey()
	for _, folder := range []string{p.vault, p.state} {
		if in := append(inClear(t, folder, key[:]), inClear(t, folder, []byte(marker))...); len(in) > 0 {
			t.Errorf("a secret of the domain, or what it seals, is in clear in %v", in)
		}
	}
	before := filepath.Join(t.TempDir(), "domains")
	must(t, os.CopyFS(before, os.DirFS(filepath.Join(p.vault, "domains"))))
	p.run(0, "forget", "--shred", "web.raw")
	if n := p.decrypted("web.raw: " + marker); n > 0 {
		t.Errorf("%d chunks of a shredded guest can be read", n)
	}
	if p.decrypted("mail.raw: "+marker) == 0 {
		t.Error("chunks of another guest cannot be read")
	}
	for _, name := range []string{"cache/*/domains/*", "cache/*/blocks/*web*"} {
		if left, _ := filepath.Glob(filepath.Join(p.state, name)); len(left) > 0 {
			t.Errorf("this host keeps %v", left)
		}
	}
	p.run(0, "audit", "verify")
	p.run(0, "audit", "verify", "--no-password")

	// An old copy of its keys is put back: it can be read again, which is told, and ends
	// with the next command.
	must(t, os.CopyFS(filepath.Join(p.vault, "domains"), os.DirFS(before)))
	if p.decrypted("web.raw: "+marker) == 0 {
		t.Error("with its keys back a guest cannot be read: the search above proves nothing")
	}
	for _, args := range [][]string{{"audit", "verify"}, {"audit", "verify", "--no-password"}} {
		if l := p.run(4, args...); !strings.Contains(l.Cause+l.Object, "domains/") {
			t.Errorf("%v: %+v", args, l)
		}
	}
	p.run(0, "prune")
	p.run(0, "audit", "verify")
	if p.decrypted("web.raw: "+marker) > 0 {
		t.Error("keys that were put back are still there")
	}
	p.verify()

	// Keys that are lost are another thing than keys that were shredded.
	p.run(0, "backup", web)
	must(t, os.Rename(filepath.Join(p.vault, "domains"), filepath.Join(t.TempDir(), "away")))
	must(t, os.Mkdir(filepath.Join(p.vault, "domains"), 0o700))
	if l := p.run(4, "restore", "web.raw@latest", "--to", p.path("back")); l.Code != "keys-missing" || !strings.Contains(l.Cause, "domains/") || !strings.Contains(l.Remedy, "put the folder") {
		t.Errorf("%+v", l)
	}
	if l := p.run(4, "audit", "verify"); !strings.Contains(l.Cause+l.Object, "domains/") {
		t.Errorf("%+v", l)
	}
}

// A job whose guest is shredded commits nothing, whatever it does not know.
func shredWhileBackedUp(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	image := p.image("web.raw", 8)
	p.run(0, "backup", image, "--domain", "guest")
	big := p.image("big.raw", 160) // large enough to take a while
	must(t, os.Rename(big, image))
	first := p.underWay(image)
	first.stop(true)
	other := p.elsewhere()
	other.fault(other.run(11, "forget", "--shred", "web.raw"), "guest-busy", "shred guest", "web.raw", "is backing it up", "--force")
	other.run(0, "forget", "--shred", "web.raw", "--force")
	first.goOn()
	if l := first.end(1); l.Code != "shredded" || l.Remedy == "" {
		t.Errorf("%+v", l)
	}
	p.points(0)
	p.run(0, "audit", "verify")
	p.replay()
	p.run(0, "backup", image)
	p.points(1)
	p.verify()
}

// Killed at any moment, the next command works, and shredding again makes sure.
func killedShred(t *testing.T, exe string) {
	p := newPlace(t, exe, filepath.Join(t.TempDir(), "vault"))
	web, mail := p.marked("web.raw"), p.marked("mail.raw")
	p.run(0, "backup", mail)
	began := time.Now()
	p.run(0, "points")
	takes := time.Since(began)
	shredded := 0
	for range 8 {
		p.run(0, "backup", web, "--domain", "guest")
		r := p.start("forget", "--shred", "web.raw")
		time.Sleep(rand.N(takes)) // where it dies is the point; nothing waits for it
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		p.run(0, "restore", "mail.raw@latest", "--to", p.path("back"), "--force")
		st, err := dir.Open(p.vault)
		must(t, err)
		gone := true
		for range st.List(t.Context(), apart.Prefix) {
			gone = false
		}
		if gone {
			shredded++
		}
		p.run(0, "forget", "--shred", "web.raw")
		if n := p.decrypted("web.raw: " + marker); n > 0 {
			t.Fatalf("%d chunks of a shredded guest can be read", n)
		}
		p.run(0, "audit", "verify")
	}
	p.verify()
	t.Logf("%d of 8 were killed after the keys had gone", shredded)
	p.replay()
}
