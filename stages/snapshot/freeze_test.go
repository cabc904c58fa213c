package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
)

// heldOnce counts what is asked of a freeze.
type heldOnce struct{ released int }

func (*heldOnce) Record() []byte                        { return []byte(`{"instant":1}`) }
func (*heldOnce) Changed(context.Context) error         { return nil }
func (h *heldOnce) Release(context.Context, bool) error { h.released++; return nil }

// freezer says what it is told to.
type freezer struct {
	driver
	hold    *heldOnce
	err     error
	resumed []byte
}

func (f *freezer) Freeze(context.Context, hypervisor.Guest, hypervisor.Policy) (hypervisor.Frozen, error) {
	return hypervisor.Frozen{Hold: f.hold, Consistency: hypervisor.CrashConsistent, Method: "m", Reason: "r", RecheckPercent: 100}, f.err
}

func (f *freezer) Resume(_ context.Context, _ hypervisor.Guest, record []byte) (hypervisor.Frozen, error) {
	f.resumed = record
	return hypervisor.Frozen{Hold: f.hold, Consistency: "now", RecheckPercent: 1}, f.err
}

func freezing(t *testing.T, f *freezer) *stage {
	w := &flow.Worker{Config: flow.Config{Folder: t.TempDir(), Work: flow.Work{Guests: []flow.WorkGuest{{Source: "/src"}}}}}
	return &stage{w: w, holds: map[uint32]*hold{}, drivers: func(flow.WorkGuest) (Driver, error) { return f, nil }}
}

// TestASuccessorTakesUpTheInstant: the same time, sample and consistency.
func TestASuccessorTakesUpTheInstant(t *testing.T) {
	f := &freezer{hold: &heldOnce{}}
	s := freezing(t, f)
	first, seed, err := s.freeze(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	again, seed2, err := s.freeze(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if string(f.resumed) != string(f.hold.Record()) || seed2 != seed || !again.since.Equal(first.since) {
		t.Errorf("record %q, seeds %d and %d, times %v and %v", f.resumed, seed, seed2, first.since, again.since)
	}
	if again.frozen.Consistency != hypervisor.CrashConsistent || again.frozen.Method != "m" || again.frozen.Reason != "r" || again.frozen.RecheckPercent != 100 {
		t.Errorf("taken up as %+v", again.frozen)
	}
}

func TestWhyAGuestIsNotFrozen(t *testing.T) {
	for err, code := range map[error]string{
		hypervisor.ErrChanged:     "source-changed",
		hypervisor.ErrConsistency: "consistency",
		errors.New("anything"):    "freeze-failed",
	} {
		_, _, got := freezing(t, &freezer{hold: &heldOnce{}, err: err}).freeze(t.Context(), 0)
		var f *flow.Fault
		if !errors.As(got, &f) || f.Class != flow.Park || f.Code != code || f.Object != "/src" || !errors.Is(got, err) {
			t.Errorf("%v gives %+v", err, got)
		}
	}
}

// TestNothingIsSentOfAFreezeThatCannotBeRecorded: it is given up at once.
func TestNothingIsSentOfAFreezeThatCannotBeRecorded(t *testing.T) {
	f := &freezer{hold: &heldOnce{}}
	s := freezing(t, f)
	s.w.Config.Folder = filepath.Join(s.w.Config.Folder, "gone")
	if _, _, err := s.freeze(t.Context(), 0); !errors.Is(err, os.ErrNotExist) || f.hold.released != 1 {
		t.Errorf("got %v, released %d times", err, f.hold.released)
	}
}

func TestADamagedRecordIsNoFreshStart(t *testing.T) {
	f := &freezer{hold: &heldOnce{}}
	s := freezing(t, f)
	if err := os.WriteFile(filepath.Join(s.w.Config.Folder, "freeze-0.json"), []byte(`{"seed":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.freeze(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "freeze-0.json") {
		t.Errorf("got %v", err)
	}
}
