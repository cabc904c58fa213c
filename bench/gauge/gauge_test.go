package gauge

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	for want, of := range map[string][]float64{
		"2.0": {2}, "3.0 (2.0–9.0)": {9, 2, 3}, "2.5 (2.0–3.0)": {3, 2}, "0.0": nil,
	} {
		if got := Of(of...).Text("%.1f"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestChecks(t *testing.T) {
	var out strings.Builder
	err := PrintChecks(&out, []Check{
		{Name: "a", Value: Of(1, 2, 3), Limit: 2}, {Name: "b", Value: Of(2.1), Limit: 2}, {Name: "c", Value: Of(2), Limit: 2, Least: true}, {Name: "d", Value: Of(1.9), Limit: 2, Least: true},
	})
	want := "| to reach | is | wanted |  |\n|---|--:|--:|--:|\n| a | 2.00 (1.00–3.00) | ≤ 2 | met |\n| b | 2.10 | ≤ 2 | missed |\n| c | 2.00 | ≥ 2 | met |\n| d | 1.90 | ≥ 2 | missed |\n"
	if err != nil || out.String() != want {
		t.Errorf("%v, got\n%swant\n%s", err, out.String(), want)
	}
}

// What a child burns is seen, here and by who asks for this process.
func TestRunAccounts(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("figures are taken on Linux only")
	}
	burn := []string{"sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $WORD"}
	var inner Cost
	outer, err := Spent(func() error {
		out, c, err := Run(t.Context(), t.TempDir(), []string{"WORD=said"}, burn)
		inner = c
		if string(out) != "said\n" {
			t.Errorf("it said %q", out)
		}
		return err
	})
	if err != nil || inner.CPU < 0.01 || inner.Seconds <= 0 || outer.CPU < inner.CPU {
		t.Errorf("%v: the child took %+v, all %+v", err, inner, outer)
	}
	if _, _, err := Run(t.Context(), t.TempDir(), nil, []string{"sh", "-c", "echo why >&2; exit 3"}); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %v", err)
	}
}

func TestSummaryIsTheLastLine(t *testing.T) {
	s, err := ParseSummary([]byte("{\"type\":\"fact\"}\n{\"type\":\"summary\",\"points\":[\"p\"],\"stored_bytes\":7}\n"))
	if err != nil || s.Stored != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"", "{}", `{"type":"error"}`, `{"type":"summary","points":[]}`, "x"} {
		if _, err := ParseSummary([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestSavedIsJSON(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := Save(dir, "x.json", Of(1, 2)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "x.json"))
	if err != nil || !strings.Contains(string(b), `"median": 1.5`) {
		t.Errorf("%s, %v", b, err)
	}
	if m := Here(dir); m.Processors < 1 || m.Go == "" || m.String() == "" {
		t.Errorf("%+v", m)
	}
}
