package compare

import (
	"slices"
	"testing"

	"github.com/millrace-backup/millrace/audit/audittest"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

func fold(t *testing.T, v audittest.Opened) *catalog.State {
	t.Helper()
	s, err := catalog.Fold(v.Ledger.Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A state and its image agree; each edit is the one difference, row and field.
func TestEachEditIsNamed(t *testing.T) {
	v := audittest.Vault(t)
	s := fold(t, v)
	again, err := catalog.ReadImage(s.Image())
	if err != nil {
		t.Fatal(err)
	}
	if d := slices.Collect(States(s, again)); len(d) > 0 {
		t.Fatalf("a state and its image: %v", d)
	}
	for name, edit := range map[string]func(*catalog.State){
		"Disks[0].Size":    func(s *catalog.State) { s.Listed()[0].Disks[0].Size++ },
		"Time":             func(s *catalog.State) { s.Listed()[0].Time++ },
		"Disks (count)":    func(s *catalog.State) { p := s.Listed()[0]; p.Disks = append(p.Disks, p.Disks[0]) },
		"Name":             func(s *catalog.State) { s.GuestList()[0].Name = "evil" },
		"Started.By":       func(s *catalog.State) { s.JobList()[0].Started.By = "nobody" },
		"Finished.Outcome": func(s *catalog.State) { s.JobList()[0].Finished.Outcome = "done?" },
		"Points (count)":   func(s *catalog.State) { g := s.GuestList()[0]; g.Points = g.Points[1:] },
		"":                 func(s *catalog.State) { delete(s.Points, s.Listed()[0].Point) },
		"Size": func(s *catalog.State) {
			for _, p := range s.Packs {
				p.Size++
				break
			}
		},
	} {
		edited := fold(t, v)
		edit(edited)
		if d := slices.Collect(States(s, edited)); len(d) != 1 || d[0].Field != name || d[0].A == d[0].B {
			t.Errorf("edit of %q: %v", name, d)
		}
	}
	if d := slices.Collect(Values("x", events.PointVerified{}, events.PointVerified{Point: id.Point{1}})); len(d) != 1 || d[0].Field != "Point" {
		t.Errorf("%v", d)
	}
}
