package retention

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return t
}

// kept is the reasons of the points that are kept, "" for the others.
func kept(t *testing.T, r Rule, points []Point) []string {
	t.Helper()
	for n := range points {
		if points[n].Order == 0 {
			points[n].Order = uint64(n) + 1
		}
	}
	reasons, err := r.Judge(points)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, why := range reasons {
		out = append(out, strings.Join(why, ", "))
	}
	return out
}

func expect(t *testing.T, r Rule, points []Point, want ...string) {
	t.Helper()
	if got := kept(t, r, points); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTheNewestOfEachBucketIsKept(t *testing.T) {
	points := []Point{
		{Time: at("2025-12-29 01:00")}, // ISO week 2026-W01
		{Time: at("2026-01-04 01:00")}, // the same week, a Sunday
		{Time: at("2026-01-05 01:00")},
		{Time: at("2026-01-05 13:00")},
		{Time: at("2026-01-05 13:30")},
	}
	expect(t, Rule{Daily: 2}, points, "", "daily 2 of 2 (2026-01-04)", "", "", "newest of the guest, daily 1 of 2 (2026-01-05)")
	expect(t, Rule{Weekly: 5}, points, "", "weekly 2 of 5 (2026-W01)", "", "", "newest of the guest, weekly 1 of 5 (2026-W02)")
	expect(t, Rule{Hourly: 2}, points, "", "", "hourly 2 of 2 (2026-01-05 01h +00)", "", "newest of the guest, hourly 1 of 2 (2026-01-05 13h +00)")
	expect(t, Rule{Yearly: 2, Last: 2}, points, "yearly 2 of 2 (2025)", "", "", "last 2 of 2", "newest of the guest, last 1 of 2, yearly 1 of 2 (2026)")
	// In Tokyo it is another day.
	tokyo := time.FixedZone("", 9*3600)
	late := []Point{{Time: at("2026-01-05 14:00")}, {Time: at("2026-01-05 16:00")}}
	expect(t, Rule{Daily: 9}, late, "", "newest of the guest, daily 1 of 9 (2026-01-05)")
	expect(t, Rule{Daily: 9, Zone: tokyo}, late, "daily 2 of 9 (2026-01-05)", "newest of the guest, daily 1 of 9 (2026-01-06)")
}

func TestPinsAndDamage(t *testing.T) {
	points := []Point{
		{Time: at("2026-01-01 01:00"), Pinned: true},
		{Time: at("2026-01-02 01:00")},
		{Time: at("2026-01-03 01:00")},
		{Time: at("2026-01-03 02:00"), Damaged: true},
		{Time: at("2026-01-04 01:00"), Damaged: true},
	}
	// A damaged point takes no place from a good one, but the newest stays.
	expect(t, Rule{Last: 2}, points, "pinned", "last 2 of 2", "newest that is not damaged, last 1 of 2", "", "newest of the guest")
	expect(t, Rule{Daily: 2}, points, "pinned", "daily 2 of 2 (2026-01-02)", "newest that is not damaged, daily 1 of 2 (2026-01-03)", "", "newest of the guest")
	expect(t, Rule{Last: 1}, points[3:], "", "newest of the guest, last 1 of 1")
}

// A clock that was wrong for a week, ahead or behind: those points do not stay in the place of
// what is made after it was set right.
func TestAWrongClock(t *testing.T) {
	for _, years := range []int{1, -1} {
		var points []Point
		for n := range 60 {
			p := Point{Time: at("2026-01-01 01:00").AddDate(0, 0, n), Order: uint64(n)}
			if n < 7 {
				p.Time = p.Time.AddDate(years, 0, 0)
			}
			points = append(points, p)
		}
		reasons, err := Rule{Last: 3, Daily: 7}.Judge(points)
		if err != nil {
			t.Fatal(err)
		}
		for n := range points {
			if kept := len(reasons[n]) > 0; kept != (n >= 53) {
				t.Errorf("clock %d years wrong: point %d: %q", years, n, reasons[n])
			}
		}
	}
}

func TestNothingIsNoRule(t *testing.T) {
	if _, err := (Rule{}).Judge([]Point{{}}); !errors.Is(err, ErrEmpty) {
		t.Errorf("got %v", err)
	}
	expect(t, Rule{Last: 3}, nil)
}

// Whatever there is: a newest and a newest good one stay, pins stay, as many are kept
// as are asked for, and judging what is left again keeps all of it.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		rule := Rule{r.IntN(4), r.IntN(4), r.IntN(4), r.IntN(4), r.IntN(4), 1 + r.IntN(2), nil}
		var points []Point
		for n := range 1 + r.IntN(60) {
			points = append(points, Point{Time: at("2024-01-01 00:00").Add(time.Duration(r.Int64N(int64(900 * 24 * time.Hour)))),
				Order: uint64(n), Damaged: r.IntN(5) == 0, Pinned: r.IntN(10) == 0})
		}
		reasons, err := rule.Judge(points)
		if err != nil {
			t.Fatal(err)
		}
		var left []Point
		good, goodLeft := 0, 0
		for n, p := range points {
			if !p.Damaged {
				good++
			}
			if len(reasons[n]) == 0 {
				if p.Pinned || n == len(points)-1 {
					t.Fatalf("seed %d: point %d is forgotten: %+v", seed, n, p)
				}
				continue
			}
			left = append(left, p)
			if !p.Damaged {
				goodLeft++
			}
		}
		if goodLeft < min(good, max(1, rule.Last)) {
			t.Fatalf("seed %d: %d of %d good points are left by %+v", seed, goodLeft, good, rule)
		}
		again, err := rule.Judge(left)
		if err != nil {
			t.Fatal(err)
		}
		for n := range again {
			if len(again[n]) == 0 {
				t.Fatalf("seed %d: judged again, %+v is forgotten", seed, left[n])
			}
		}
	}
}

func TestRulesAreKeptInWords(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here: ", err)
	}
	for _, r := range []Rule{{Last: 3}, {Last: 1, Hourly: 2, Daily: 3, Weekly: 4, Monthly: 5, Yearly: 6, Zone: berlin}} {
		back, err := FromWords(r.Words())
		if err != nil || back.String() != r.String() {
			t.Errorf("%v became %v, %v", r, back, err)
		}
	}
	if got := (Rule{Daily: 7, Last: 2}).String(); got != "keep last 2, daily 7 in UTC" {
		t.Errorf("got %q", got)
	}
	for name, words := range map[string]map[string]string{
		"an unknown word": {"last": "3", "fortnightly": "1"}, "no number": {"last": "many"}, "below zero": {"last": "-1"}, "an unknown zone": {"last": "1", "zone": "Nowhere/Else"},
		"a path as zone": {"last": "1", "zone": "../../etc/passwd"},
	} {
		if r, err := FromWords(words); !errors.Is(err, ErrUnclear) || !r.Empty() {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	for name, words := range map[string]map[string]string{"nothing": nil, "a zone only": {"zone": "UTC"}, "zero": {"last": "0"}} {
		if _, err := FromWords(words); !errors.Is(err, ErrEmpty) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
