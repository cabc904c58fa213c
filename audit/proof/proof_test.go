package proof

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/audit/audittest"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

func verify(t *testing.T, v audittest.Opened, password bool, seen ...Seen) *Result {
	t.Helper()
	o := Options{Config: v.Config, Store: v.Store, Workers: 2, Scratch: t.TempDir(), Seen: seen}
	if password {
		o.Vault = v.Vault
	}
	r, err := Verify(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// both verifies with and without the password and wants these states of these objects.
func both(t *testing.T, v audittest.Opened, want map[string]string, seen ...Seen) {
	t.Helper()
	for _, password := range []bool{true, false} {
		got := map[string]string{}
		for _, f := range verify(t, v, password, seen...).Findings {
			got[f.Object] = f.State
		}
		for object, state := range want {
			if got[object] != state {
				t.Errorf("password %v: %s is %q, want %q; all: %v", password, object, got[object], state, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("password %v: found %v, want %v", password, got, want)
		}
	}
}

func appendFact(t *testing.T, v audittest.Opened, in ...ledger.ObjectRef) ledger.Checkpoint {
	t.Helper()
	if _, err := v.Ledger.Append(t.Context(), id.Job{7}, []events.Fact{events.PointVerified{}}, in, nil); err != nil {
		t.Fatal(err)
	}
	c, err := v.Ledger.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, v audittest.Opened, name string, text []byte) {
	t.Helper()
	path := filepath.Join(v.Root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, v audittest.Opened, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(v.Root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func remove(t *testing.T, v audittest.Opened, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(v.Root, filepath.FromSlash(name))); err != nil {
		t.Fatal(err)
	}
}

func TestWholeVaultsHaveNoFinding(t *testing.T) {
	for segments, v := range map[uint64]audittest.Opened{37: audittest.Vault(t), 122: audittest.Second(t)} {
		both(t, v, nil, Seen{"us", v.Ledger.Signed()})
		r := verify(t, v, true)
		if r.Segments != segments || r.Tail != 0 || r.Unproven != 0 || r.LeftOver.Objects+r.Running.Objects+r.Retired.Objects != 0 || len(r.Notes) > 0 {
			t.Errorf("%+v", r)
		}
	}
}

// Every object, taken away, cut or changed, is found with the password and without it.
func TestEveryObject(t *testing.T) {
	v := audittest.Vault(t)
	seen := Seen{"us", v.Ledger.Signed()}
	var names []string
	for e, err := range v.Store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Name != vault.ConfigName { // nothing is looked at without it
			names = append(names, e.Name)
		}
	}
	for n, name := range names {
		was := read(t, v, name)
		for _, how := range []string{"gone", "cut", "flipped"} {
			now := bytes.Clone(was)
			switch how {
			case "gone":
				if strings.HasPrefix(name, "points/") {
					continue // disposable
				}
				remove(t, v, name)
			case "cut":
				write(t, v, name, now[:len(now)-1-n%7])
			case "flipped":
				now[(n*7919)%len(now)] ^= 1 << (n % 8)
				write(t, v, name, now)
			}
			for _, password := range []bool{true, false} {
				r := verify(t, v, password, seen)
				if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Object == name }) {
					t.Errorf("%s %s, password %v: found %v", name, how, password, r.Err())
				}
				if ledgerly := strings.HasPrefix(name, "ledger/") || strings.HasPrefix(name, "keys/"); len(r.Findings) != 1 && !ledgerly {
					t.Errorf("%s %s, password %v: %d findings: %v", name, how, password, len(r.Findings), r.Findings)
				}
			}
			write(t, v, name, was)
		}
	}
	both(t, v, nil, seen)
}

// Two branches of one vault: what the other one signed is of another history.
func TestFork(t *testing.T) {
	v := audittest.Vault(t)
	other := v.Copy(t)
	theirs := appendFact(t, other)
	both(t, v, map[string]string{ledger.SegmentName(37): Rollback}, Seen{"them", theirs})
	appendFact(t, v)
	ours := appendFact(t, v)
	both(t, v, nil, Seen{"us", ours})
	both(t, v, map[string]string{ledger.SegmentName(37): Forked}, Seen{"them", theirs})
}

// An older segment, put back in the place of a newer one of the same number.
func TestSegmentOfAnotherBranch(t *testing.T) {
	v := audittest.Vault(t)
	other := v.Copy(t)
	appendFact(t, other)
	appendFact(t, v, ledger.ObjectRef{})
	write(t, v, ledger.SegmentName(37), read(t, other, ledger.SegmentName(37)))
	for _, password := range []bool{true, false} {
		r := verify(t, v, password)
		if len(r.Findings) != 1 || r.Findings[0].Object != ledger.SegmentName(37) || r.Findings[0].State != Damaged {
			t.Errorf("%v", r.Findings)
		}
	}
}

// A clear header that was changed with everything that depends on it but the signature.
func TestRewrittenHistory(t *testing.T) {
	v := audittest.Vault(t)
	for n := range uint64(37) {
		if n > 12 {
			remove(t, v, ledger.SegmentName(n))
		}
	}
	r := verify(t, v, false)
	if !errors.Is(r.Err(), vault.ErrDamaged) {
		t.Errorf("cut off behind segment 12: %v", r.Err())
	}
}

// Objects that no segment names: of a job that runs, of one that died, of nobody.
func TestUnnamedObjects(t *testing.T) {
	v := audittest.Vault(t)
	job, stranger := id.Job{7}, id.Job{9}
	appendFact(t, v) // so the ledger knows job 7
	pack := func(j id.Job) (name string, text []byte) {
		text = append(text, "MRPACK\x00\x01"...)
		text = append(append(append(text, v.ID[:]...), make([]byte, 16)...), j[:]...)
		text = append(text, make([]byte, 200)...)
		return vault.PackName(j, sha256.Sum256(text)), text
	}
	ofJob, ofJobText := pack(job)
	ofStranger, ofStrangerText := pack(stranger)
	write(t, v, ofJob, ofJobText)
	if r := verify(t, v, false); len(r.Findings) > 0 || r.LeftOver.Objects != 1 {
		t.Errorf("of a job that died: %v, %+v", r.Findings, r.LeftOver)
	}
	if r := verify(t, v, true); len(r.Findings) != 1 || r.Findings[0].State != Extra {
		t.Errorf("its footer does not open: %v", r.Findings)
	}
	remove(t, v, ofJob)
	write(t, v, ofStranger, ofStrangerText)
	both(t, v, map[string]string{ofStranger: Extra})
	beat := "leases/" + stranger.String() + "/00000000000000000003"
	write(t, v, beat, []byte(beat))
	if r := verify(t, v, false); len(r.Findings) > 0 || r.Running.Objects != 1 || len(r.RunningJobs) != 1 {
		t.Errorf("of a job that runs: %v, %+v", r.Findings, r.Running)
	}
	write(t, v, beat, []byte("else"))
	write(t, v, "leases/nonsense", nil)
	remove(t, v, ofStranger)
	both(t, v, map[string]string{beat: Damaged, "leases/nonsense": Extra})
}

// What stands behind the newest checkpoint is counted, and is no finding.
func TestTail(t *testing.T) {
	v := audittest.Vault(t)
	for range 3 {
		if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	both(t, v, nil)
	if r := verify(t, v, false); r.Tail != 3 || r.Unproven != 0 {
		t.Errorf("%d behind, %d unproven", r.Tail, r.Unproven)
	}
}

// A later version's facts are counted; its segments are refused as such.
func TestLaterVersions(t *testing.T) {
	v := audittest.Vault(t)
	if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.Unknown{Name: "MoonPhaseSeen", Body: []byte{0x80}}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, v, true); r.Later["MoonPhaseSeen"] != 1 || len(r.Findings) > 0 {
		t.Errorf("%v, %v", r.Later, r.Findings)
	}
	text := read(t, v, ledger.SegmentName(37))
	text[7] = 2
	write(t, v, ledger.SegmentName(37), text)
	both(t, v, map[string]string{ledger.SegmentName(37): Newer})
	r := verify(t, v, false)
	if !errors.Is(r.Err(), vault.ErrNewer) || errors.Is(r.Err(), vault.ErrDamaged) {
		t.Errorf("%v", r.Err())
	}
}

// Memory does not grow with the number of objects.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("names many objects")
	}
	v := audittest.Vault(t)
	const segments, each = 40, 5000
	for n := range segments {
		in := make([]ledger.ObjectRef, each)
		for k := range in {
			sum := sha256.Sum256([]byte{byte(n), byte(k), byte(k >> 8)})
			in[k] = ledger.ObjectRef{Name: vault.PackName(id.Job{byte(n)}, sum), Sum: sum, Size: 1}
		}
		out := in // retired at once: nothing has to be there
		if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, in, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, nil, out); err != nil {
			t.Fatal(err)
		}
	}
	var before, peak runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	o := Options{Config: v.Config, Store: v.Store, Workers: 2, Scratch: t.TempDir()}
	r, err := Verify(t.Context(), o)
	if err != nil || len(r.Findings) > 0 {
		t.Fatalf("%v, %v", err, r)
	}
	runtime.ReadMemStats(&peak)
	if grown := int64(peak.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("%d names took %d MiB more", 2*segments*each, grown>>20)
	} else {
		t.Logf("%d names took %d MiB more", 2*segments*each, grown>>20)
	}
}
