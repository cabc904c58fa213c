package trial

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bench counts what it is asked to do.
type bench struct {
	did    map[int]int
	drew   map[int]uint64
	stopAt int
	stop   context.CancelFunc
}

func (b *bench) Trial(_ context.Context, n int, rng *rand.Rand) (Outcome, error) {
	if n == b.stopAt {
		b.stop()
		return Outcome{}, errors.New("cut short")
	}
	b.did[n]++
	b.drew[n] = rng.Uint64()
	kinds := []string{[]string{"even", "odd"}[n%2]}
	if n == 3 {
		return Outcome{Kinds: kinds, Note: "the third"}, errors.New("planted")
	}
	return Outcome{Kinds: kinds}, nil
}

func (b *bench) Close() error { return nil }

func (b *bench) campaign() Campaign {
	return Campaign{Name: "test", About: "Nothing.", Count: 7, Open: func(context.Context, Env) (Bench, error) { return b, nil }}
}

func options(t *testing.T, work string) Options {
	return Options{Seed: 5, Only: -1, Work: work, Commit: "abc", Machine: "here", Log: io.Discard,
		Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }}
}

// A run that is stopped goes on where it was, each trial is done once, and has
// the same random numbers however it came to be done.
func TestRunGoesOn(t *testing.T) {
	work := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	b := &bench{did: map[int]int{}, drew: map[int]uint64{}, stopAt: 4, stop: cancel}
	if _, err := Run(ctx, b.campaign(), options(t, work)); !errors.Is(err, context.Canceled) {
		t.Fatalf("a run that is stopped: %v", err)
	}
	journals, _ := filepath.Glob(filepath.Join(work, "*.jsonl"))
	if len(journals) != 1 {
		t.Fatalf("journals %v", journals)
	}
	text, err := os.ReadFile(journals[0])
	if err != nil {
		t.Fatal(err)
	}
	// As a crash in mid-line leaves it.
	if err := os.WriteFile(journals[0], append(text, `{"trial":6,"ki`...), 0o600); err != nil {
		t.Fatal(err)
	}
	b.stopAt = -1
	r, err := Run(t.Context(), b.campaign(), options(t, work))
	if err != nil || len(r.Results) != 7 || r.Failed != 1 {
		t.Fatalf("%d results, %d failed, %v", len(r.Results), r.Failed, err)
	}
	for n := range 7 {
		if b.did[n] != 1 {
			t.Errorf("trial %d was done %d times", n, b.did[n])
		}
	}
	if want := "| 2026-01-02 | abc | here | 5 | 7 | 1 | 0s | even 4, odd 3; FAILED: trials 3 |\n"; r.Line() != want {
		t.Errorf("line %q, want %q", r.Line(), want)
	}
	was := b.drew[5]
	o := options(t, work)
	o.Only = 5
	if r, err = Run(t.Context(), b.campaign(), o); err != nil || len(r.Results) != 1 || b.drew[5] != was {
		t.Errorf("trial 5 again: %d results, %v, drew %d, before %d", len(r.Results), err, b.drew[5], was)
	}
	o = options(t, work)
	o.Seed = 6
	if _, err := Run(t.Context(), b.campaign(), o); err != nil || b.did[0] != 2 || b.drew[5] == was {
		t.Errorf("another seed: trial 0 done %d times, %v", b.did[0], err)
	}
}

func TestAppend(t *testing.T) {
	b := &bench{did: map[int]int{}, drew: map[int]uint64{}, stopAt: -1}
	r, err := Run(t.Context(), b.campaign(), options(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for range 2 {
		if err := r.Append(folder); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(folder, "test.md"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); strings.Count(got, r.Line()) != 2 || strings.Count(got, "# Campaign test") != 1 {
		t.Error(got)
	}
}
