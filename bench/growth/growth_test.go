package growth

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/bench/gauge"
)

func TestFit(t *testing.T) {
	for _, c := range []struct {
		x, y         []float64
		fixed, slope float64
	}{
		{[]float64{1, 2, 4}, []float64{5, 7, 11}, 3, 2},
		{[]float64{1, 3}, []float64{4, 4}, 4, 0},
		{[]float64{2}, []float64{9}, 9, 0},
	} {
		fixed, slope := fit(c.x, c.y)
		if math.Abs(fixed-c.fixed) > 1e-9 || math.Abs(slope-c.slope) > 1e-9 {
			t.Errorf("%v, %v: %v + %v x", c.x, c.y, fixed, slope)
		}
	}
}

func TestReport(t *testing.T) {
	r := &Result{Runs: 1}
	for n := range int64(3) {
		for _, phase := range []string{full, unchanged, restore} {
			r.Steps = append(r.Steps, Step{Phase: phase, Size: (n + 1) << 30, Data: (n + 1) << 30, Seconds: gauge.Of(float64(n + 2)), CPU: gauge.Of(float64(3*n + 4)), Memory: gauge.Of(1 << 20)})
		}
	}
	r.Lines = []Line{r.line(full)}
	var out strings.Builder
	if err := r.Print(&out); err != nil || !strings.Contains(out.String(), "| full | 1.00 + 1.00 a GiB | 1.00 + 3.00 a GiB | 0 % |") {
		t.Errorf("%v\n%s", err, out.String())
	}
	dir := t.TempDir()
	if err := r.Draw(dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "growth.svg")); err != nil || !strings.Contains(string(b), "unchanged") {
		t.Errorf("%v", err)
	}
}
