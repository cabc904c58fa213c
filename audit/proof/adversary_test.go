package proof

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/audit/audittest"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

// byKind lists the objects of a vault by folder, the description left out, since nothing
// is looked at without it.
func byKind(t *testing.T, v audittest.Opened) map[string][]string {
	t.Helper()
	kinds := map[string][]string{}
	for e, err := range v.Store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if folder, _, ok := strings.Cut(e.Name, "/"); ok {
			kinds[folder] = append(kinds[folder], e.Name)
		}
	}
	return kinds
}

// forge puts a segment behind the newest checkpoint that names objects.
func forge(t *testing.T, v audittest.Opened, in, out []ledger.ObjectRef) string {
	t.Helper()
	name, text := audittest.Forge(t, v.Ledger.Signed(), in, out)
	write(t, v, name, text)
	return name
}

func refOf(name string, text []byte) ledger.ObjectRef {
	return ledger.ObjectRef{Name: name, Sum: sha256.Sum256(text), Size: int64(len(text))}
}

// has reports whether a result has a finding of an object.
func has(r *Result, object string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Object == object })
}

// disposable is what the ledger does not name: that it has gone is nothing, and nobody can
// tell a newer state of it from an older one.
func disposable(kind string) bool { return kind == "points" || kind == "catalogs" || kind == "leases" }

// What somebody who can write to the vault and has no password can do to one object of each
// kind, and that it is found by somebody who has no password either. "forged" adds to it
// a segment behind the newest checkpoint that says what was done was meant.
func TestAdversary(t *testing.T) {
	whole := audittest.Vault(t)
	for kind, all := range byKind(t, whole) {
		object := all[len(all)/2]
		was := read(t, whole, object)
		flipped := bytes.Clone(was)
		flipped[len(was)*2/3] ^= 16
		older := read(t, whole, all[0]) // another one of its kind, which was whole once
		for how, now := range map[string][]byte{"deleted": nil, "flipped": flipped, "truncated": was[:len(was)/2], "emptied": {}, "replaced": older} {
			if how == "deleted" && disposable(kind) || how == "replaced" && len(all) < 2 {
				continue
			}
			v := whole.Copy(t)
			remove(t, v, object)
			if now != nil {
				write(t, v, object, now)
			}
			wants := func(how string) {
				for _, password := range []bool{false, true} {
					if r := verify(t, v, password); !has(r, object) || r.Err() == nil {
						t.Errorf("%s %s, password %v: found %v", object, how, password, r.Err())
					}
				}
			}
			wants(how)
			forge(t, v, nil, []ledger.ObjectRef{refOf(object, was)})
			wants(how + ", and retired by a forged segment")
			if now != nil {
				forge(t, v, []ledger.ObjectRef{refOf(object, now)}, nil)
				wants(how + ", and brought in by a forged segment")
			}
		}
	}
}

// A forged segment does not vouch for what is foreign either: with the password it is found
// itself, without it it is told as signed by nobody.
func TestForgedSegmentAlone(t *testing.T) {
	v := audittest.Vault(t)
	name := forge(t, v, nil, nil)
	r := verify(t, v, false)
	if len(r.Findings) > 0 || r.Tail != 1 {
		t.Errorf("without the password: %v, %d behind the checkpoint", r.Findings, r.Tail)
	}
	if r := verify(t, v, true); !has(r, name) {
		t.Errorf("with the password: %v", r.Findings)
	}
}

// A key that was removed and is put back is told, whatever a forged segment says; one that
// is retired and not yet deleted, which a crash of key remove leaves, is counted.
func TestRemovedKeyIsThere(t *testing.T) {
	v := audittest.Vault(t)
	key := byKind(t, v)["keys"][0]
	was := read(t, v, key)
	for _, ref := range []ledger.ObjectRef{refOf(key, was), {Name: key}} {
		if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, nil, []ledger.ObjectRef{ref}); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Ledger.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, v, false); ref.Size > 0 && (len(r.Findings) > 0 || r.Retired.Objects != 1) {
			t.Errorf("on its way: %v", r.Findings)
		}
	}
	want := map[string]string{key: Extra}
	both(t, v, want)
	remove(t, v, key)
	both(t, v, nil)
	write(t, v, key, was)
	name := forge(t, v, []ledger.ObjectRef{refOf(key, was)}, nil)
	if r := verify(t, v, false); len(r.Findings) != 1 || r.Findings[0].State != Extra || r.Findings[0].Object != key {
		t.Errorf("put back, with a forged segment: %v", r.Findings)
	}
	remove(t, v, name)
	both(t, v, want)
}

// Until it is signed that an object was retired, it has to be there.
func TestRetiredAndNotSigned(t *testing.T) {
	v := audittest.Vault(t)
	pack := byKind(t, v)["packs"][0]
	ref := refOf(pack, read(t, v, pack))
	if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, nil, []ledger.ObjectRef{ref}); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, v, false); len(r.Findings) > 0 || r.Retired.Objects != 0 {
		t.Errorf("%v, %d retired", r.Findings, r.Retired.Objects)
	}
	remove(t, v, pack)
	r := verify(t, v, false)
	if len(r.Findings) != 1 || r.Findings[0].State != Missing || !strings.Contains(r.Findings[0].Err.Error(), "which nothing proves") {
		t.Errorf("gone before it was signed: %v", r.Findings)
	}
	if _, err := v.Ledger.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, v, false); len(r.Findings) > 0 {
		t.Errorf("signed: %v", r.Findings)
	}
}

// A copy of a point whose signature was cut out is no copy that an earlier version wrote.
func TestCopyWithoutSignature(t *testing.T) {
	v := audittest.Vault(t)
	point := byKind(t, v)["points"][0]
	was := read(t, v, point)
	write(t, v, point, slices.Concat([]byte("MRPOIN\x00\x01"), was[8+64:]))
	both(t, v, map[string]string{point: Damaged})
	write(t, v, point, []byte("MRPOIN\x00\x01 and nothing"))
	both(t, v, map[string]string{point: Damaged})
}

// clearFolder takes all of a folder away but what keep says.
func clearFolder(t *testing.T, v audittest.Opened, folder string, keep func(string) bool) {
	t.Helper()
	for _, name := range byKind(t, v)[folder] {
		if keep == nil || !keep(name) {
			remove(t, v, name)
		}
	}
}

// Checkpoints taken away: all of them is damage for everybody; the newest is not provable
// without a witness or a memory, and is with one.
func TestCheckpointsTakenAway(t *testing.T) {
	whole := audittest.Vault(t)
	seen := Seen{"a witness", whole.Ledger.Signed()}

	v := whole.Copy(t)
	clearFolder(t, v, "checkpoints", nil)
	clearFolder(t, v, "points", nil)
	clearFolder(t, v, "catalogs", nil)
	both(t, v, map[string]string{"checkpoints/": Missing})
	if _, err := ledger.OpenReadOnly(t.Context(), v.Config, v.Store, ledger.Options{Now: audittest.Now}); err == nil {
		t.Error("a ledger without checkpoints opens")
	}

	// Nor does it help to take away all that was stored.
	clearFolder(t, v, "packs", nil)
	clearFolder(t, v, "tables", nil)
	for _, password := range []bool{false, true} {
		if r := verify(t, v, password); !has(r, "checkpoints/") {
			t.Errorf("nothing stored, password %v: %v", password, r.Findings)
		}
	}

	// Nor are checkpoints that nobody signed any.
	for _, name := range byKind(t, whole)["checkpoints"] {
		write(t, v, name, []byte("nothing\n"))
	}
	for _, password := range []bool{false, true} {
		if r := verify(t, v, password); !has(r, "checkpoints/") {
			t.Errorf("password %v: %v", password, r.Findings)
		}
	}

	// The newest alone: documented as not provable from the vault.
	v = whole.Copy(t)
	newest := ledger.CheckpointName(seen.Size)
	remove(t, v, newest)
	both(t, v, nil)
	both(t, v, map[string]string{newest: Missing}, seen)

	// All but the first: what they said was there is named by nobody that is left.
	v = whole.Copy(t)
	first := byKind(t, v)["checkpoints"][0]
	clearFolder(t, v, "checkpoints", func(name string) bool { return name == first })
	clearFolder(t, v, "points", nil)
	clearFolder(t, v, "catalogs", nil)
	both(t, v, nil)
	both(t, v, map[string]string{newest: Missing}, seen)

	// The middle is named by those behind it.
	v = whole.Copy(t)
	middle := byKind(t, v)["checkpoints"][2]
	remove(t, v, middle)
	both(t, v, map[string]string{middle: Missing})
}

// What a crash of init leaves is harmless: no segment, or one, and no checkpoint. Anything
// that a job stores beside it is not.
func TestCrashOfInit(t *testing.T) {
	for _, segments := range []int{0, 1} {
		v := audittest.Vault(t)
		first := ledger.SegmentName(0)
		for folder := range byKind(t, v) {
			if folder != "keys" {
				clearFolder(t, v, folder, func(name string) bool { return segments == 1 && name == first })
			}
		}
		// A key that was added later is none that this ledger knows of.
		both(t, v, nil)
		if r := verify(t, v, false); !slices.Equal(r.Notes, []string{"no checkpoint has been signed yet"}) {
			t.Errorf("%d segments: notes %v", segments, r.Notes)
		}
		pack := vault.PackName(id.Job{1}, id.Object{2})
		write(t, v, pack, []byte("of a job"))
		for _, password := range []bool{false, true} {
			if r := verify(t, v, password); !has(r, "checkpoints/") {
				t.Errorf("%d segments and a pack, password %v: %v", segments, password, r.Findings)
			}
		}
	}
}

// An entry in a folder of the vault that is no file of ours does not stop the rest from
// being looked at.
func TestOddEntries(t *testing.T) {
	v := audittest.Vault(t)
	pack := byKind(t, v)["packs"][0]
	remove(t, v, pack)
	if err := os.MkdirAll(filepath.Join(v.Root, filepath.FromSlash(pack)), 0o700); err != nil {
		t.Fatal(err)
	}
	both(t, v, map[string]string{pack: Missing})
}
