package flips

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

func newBench(t *testing.T, every int) *bench {
	t.Helper()
	program, err := rig.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t.Context(), trial.Env{Dir: t.TempDir(), Program: program, Seed: 7, Now: time.Now, Log: t.Logf}, every)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A share of the campaign: every mutation, and every type of object, each with half of
// the others.
func TestFlips(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute of damage")
	}
	b := newBench(t, 7)
	count := len(b.kinds) * len(mutations())
	kinds := map[string]int{}
	for n := range count {
		if n%2 != n/len(mutations())%2 {
			continue
		}
		out, err := b.Trial(t.Context(), n, rand.New(rand.NewPCG(7, uint64(n))))
		if err != nil {
			t.Errorf("trial %d: %s: %v", n, out.Note, err)
		}
		for _, k := range out.Kinds {
			kinds[k]++
		}
	}
	t.Logf("%d trials: %v", count, kinds)
}

// The judge can say no: each answer below is wrong for what was done.
func TestJudgeCanFail(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a vault")
	}
	b := newBench(t, 0)
	intact, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 * len(b.kinds) * len(mutations()) {
		m, err := b.choose(n, rand.New(rand.NewPCG(1, uint64(n))))
		if err != nil {
			t.Fatal(err)
		}
		undetectable := m.disposable() || m.gone() && m.kind == "checkpoints" && m.what == "removal"
		if wrong := b.judge(m, intact); len(wrong) == 0 && !undetectable {
			t.Errorf("%s: that nothing was found passes", m)
		}
	}
	m, err := b.choose(0, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for p, r := range intact.points {
		r.equal = false
		intact.points[p] = r
	}
	wrong := false
	for _, err := range b.judge(m, intact) {
		wrong = wrong || strings.Contains(err.Error(), "WRONG BYTES")
	}
	if !wrong {
		t.Error("wrong bytes pass")
	}
}

// Healing is told from what looks like it: where nobody has withdrawn the damaged chunk,
// which is what a delta that trusts withdrawn chunks makes of it, the backup refers to
// it, and its point is not whole.
func TestHealingCanFail(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a vault")
	}
	for _, verified := range []bool{true, false} {
		b := newBench(t, 0)
		last := b.points[len(b.points)-1]
		var m mutation
		for name, uses := range last.uses {
			u := uses[len(uses)/2]
			was := b.objects[name]
			now := bytes.Clone(was)
			now[u.at+u.stored/2] ^= 1
			m = mutation{kind: "packs", what: "flip", object: name, before: map[string][]byte{name: was}, after: map[string][]byte{name: now}}
		}
		if err := b.apply(m.after); err != nil {
			t.Fatal(err)
		}
		if verified {
			if end, err := b.place.Run(t.Context(), "verify", "--read-data"); err != nil || end.Exit != 4 {
				t.Fatalf("verify: exit code %d, %v", end.Exit, err)
			}
		}
		var wrong []error
		b.heals(t.Context(), b.place, func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) })
		if verified != (len(wrong) == 0) {
			t.Errorf("verified before the backup: %v; found wrong: %v", verified, wrong)
		}
	}
}

// An intact vault has no finding, and what is not done is not detected.
func TestAuditCanSayNo(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a vault")
	}
	b := newBench(t, 0)
	for _, password := range []bool{true, false} {
		r, err := b.prove(t.Context(), password, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Findings {
			t.Errorf("password %v: %s: %v", password, f.Object, f.Err)
		}
	}
	for n := range len(b.kinds) {
		m, err := b.choose(n, rand.New(rand.NewPCG(1, uint64(n))))
		if err != nil {
			t.Fatal(err)
		}
		if wrong := b.audit(t.Context(), m, true, false); len(wrong) != 4 && m.kind != "vault" {
			t.Errorf("%s, which was not done: %v", m, wrong)
		}
	}
}
