package replay

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/audit/audittest"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/saved"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
)

var update = flag.Bool("update", false, "rewrite golden files")

func run(t *testing.T, v audittest.Opened, o Options) *Result {
	t.Helper()
	l, err := ledger.Open(t.Context(), v.Vault, ledger.Options{Now: audittest.Now})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), v.Vault, l, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What the vaults of earlier releases add up to, whoever folds them, for ever.
func TestGoldenVaultsReplayEqual(t *testing.T) {
	for _, c := range []struct {
		name     string
		v        audittest.Opened
		agreed   int
		versions uint32
	}{{"vault-1.golden", audittest.Vault(t), 10, 2}, {"vault-2.golden", audittest.Second(t), 45, 4}} {
		r := run(t, c.v, Options{})
		for _, d := range r.Differences {
			t.Errorf("%s: %v", c.name, d)
		}
		if r.Agreed != c.agreed || r.Passed != 0 || len(r.Later) != 0 {
			t.Errorf("%s: %d hashes agreed, %d were passed over, later kinds %v", c.name, r.Agreed, r.Passed, r.Later)
		}
		golden(t, c.name, account(t, c.v, r, c.versions))
	}
}

// account tells the state at each position, by the newest of some versions of its hash.
func account(t *testing.T, v audittest.Opened, r *Result, versions uint32) string {
	t.Helper()
	var b strings.Builder
	for version := uint32(1); version <= versions; version++ {
		fmt.Fprintf(&b, "state of version %d: %s\n", version, r.State.HashOf(version))
	}
	fmt.Fprintf(&b, "%d facts to position %d, %d packs, %d jobs\n", r.Facts, r.Position, len(r.State.Packs), len(r.State.Jobs))
	for position := range r.Position + 1 {
		part := run(t, v, Options{Position: &position})
		if len(part.Differences) > 0 {
			t.Errorf("position %d: %v", position, part.Differences)
		}
		var points []string
		for _, p := range part.State.Listed() {
			points = append(points, fmt.Sprintf("%s of %s", id.Short(p.Point), p.GuestName))
		}
		fmt.Fprintf(&b, "%2d %s %s\n", position, part.State.HashOf(versions), strings.Join(points, ", "))
	}
	return b.String()
}

// The second vault has what the first has not.
func TestSecondVaultHasAllKindsOfUpkeep(t *testing.T) {
	v := audittest.Second(t)
	seen := map[string]int{}
	for f, err := range v.Ledger.Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		seen[f.Kind]++
	}
	for _, kind := range []string{"SetDefined", "GuestsSelected", "KeyAnnounced", "KeyAdded", "KeyRemoved", "KeysRotated", "RollbackAccepted", "ChunkWithdrawn",
		"TableReplaced", "PointPinned", "PointForgotten", "PacksRetired", "DomainKeyed", "DomainShredded"} {
		if seen[kind] == 0 {
			t.Errorf("no %s among %v", kind, seen)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the same ledger adds up to something else:\n%s\nwas\n%s", got, want)
	}
}

// A fact of a later version is kept, counted, and changes nothing.
func TestLaterFactsAreSkipped(t *testing.T) {
	v := audittest.Vault(t)
	before := run(t, v, Options{}).State
	_, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.Unknown{Name: "MoonPhaseSeen", Body: []byte{0x81, 0xa1, 'p', 0x07}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	after := run(t, v, Options{})
	if after.Later["MoonPhaseSeen"] != 1 || len(after.Differences) > 0 {
		t.Errorf("%v, %v", after.Later, after.Differences)
	}
	before.Next = after.State.Next
	if before.Hash() != after.State.Hash() {
		t.Error("an unknown fact changed the state")
	}
}

// A StateHashed that the fold does not confirm is named.
func TestWrongHashIsFound(t *testing.T) {
	v := audittest.Vault(t)
	_, size, _ := v.Ledger.Head()
	next, _, _ := v.Ledger.Head()
	_, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.StateHashed{Version: 1, Before: next, Size: size, Hash: events.Hash{1}},
		events.StateHashed{Version: 99, Before: next, Size: size, Hash: events.Hash{1}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, v, Options{})
	if len(r.Differences) != 1 || r.Differences[0].Position != next || r.Passed != 1 || !errors.Is(r.Err(), ErrDiffers) {
		t.Errorf("%v, %d passed over", r.Differences, r.Passed)
	}
	if before := next - 1; len(run(t, v, Options{Position: &before}).Differences) > 0 {
		t.Error("a fact counts before it was written")
	}
}

// A row of the catalog that somebody edited is named, field and all, even where who did it
// had the keys.
func TestEditedRowIsNamed(t *testing.T) {
	v := audittest.Vault(t)
	for range saved.Every {
		if _, err := v.Ledger.Append(t.Context(), id.Job{}, []events.Fact{events.PointVerified{}}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Ledger.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	honest := v.Copy(t)
	s := run(t, v, Options{}).State
	if err := saved.Save(t.Context(), honest.Vault, honest.Ledger, s); err != nil {
		t.Fatal(err)
	}
	if r := run(t, honest, Options{}); r.Snapshots != 1 || len(r.Differences) > 0 {
		t.Fatalf("%d snapshots agreed; %v", r.Snapshots, r.Differences)
	}
	edited := s.Listed()[0]
	edited.DiskBytes++
	if err := saved.Save(t.Context(), v.Vault, v.Ledger, s); err != nil {
		t.Fatal(err)
	}
	r := run(t, v, Options{})
	if len(r.Differences) != 1 || r.Snapshots != 0 {
		t.Fatalf("%v", r.Differences)
	}
	if d := r.Differences[0]; d.Field != "DiskBytes" || !strings.Contains(d.Row, edited.Point.String()) || !strings.HasPrefix(d.Object, "catalogs/") {
		t.Errorf("%v", d)
	}
}

// A moment is named by position, by time, or by the end of a job.
func TestMoments(t *testing.T) {
	v := audittest.Vault(t)
	all := run(t, v, Options{})
	jobs := all.State.JobList()
	first := run(t, v, Options{Job: jobs[0].ID.String()[:20]})
	if first.Job != jobs[0].ID || len(first.State.Listed()) != 1 || len(first.State.Jobs) != 1 {
		t.Errorf("at the end of the first job there are %d points of %d jobs", len(first.State.Listed()), len(first.State.Jobs))
	}
	at := run(t, v, Options{Time: first.Time})
	if at.Position != first.Position {
		t.Errorf("at the time of position %d it is %d", first.Position, at.Position)
	}
	for _, o := range []Options{{Time: time.Unix(0, 0)}, {Position: ptr(999)}, {Job: jobs[1].ID.String(), Position: ptr(1)}} {
		if _, err := Run(t.Context(), v.Vault, v.Ledger, o); !errors.Is(err, ErrMoment) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Run(t.Context(), v.Vault, v.Ledger, Options{Job: "ffffffff"}); !errors.Is(err, catalog.ErrNone) {
		t.Errorf("%v", err)
	}
}

func ptr(n uint64) *uint64 { return &n }
