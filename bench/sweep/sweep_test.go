package sweep

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/conductor/parallel"
)

// On any machine the points have their own names, the defaults first, and on one of
// two processors they are few enough for a quarter of an hour.
func TestPoints(t *testing.T) {
	for _, cpus := range []int{1, 2, 4, 16, 64, 256} {
		all := Points(cpus)
		names := map[string]bool{}
		for _, p := range all {
			if names[p.Name] {
				t.Errorf("%d processors: two points are called %s", cpus, p.Name)
			}
			names[p.Name] = true
			for stage, n := range p.Parallel {
				if parallel.Check(stage, n, nil) != nil {
					t.Errorf("%d processors, %s: %s=%d", cpus, p.Name, stage, n)
				}
			}
		}
		if all[0].Factor != "defaults" || !slices.Contains(all[0].flags(), "auto") {
			t.Errorf("%d processors: the first is %+v", cpus, all[0])
		}
		if cpus == 2 && len(all) > 30 || len(all) > 70 {
			t.Errorf("%d processors: %d points", cpus, len(all))
		}
	}
}

// What is printed and drawn is what was measured.
func TestReport(t *testing.T) {
	r := &Result{Bytes: 1 << 30, Rounds: 2, Best: "chunker=1 seal=3"}
	for i, p := range Points(2) {
		x := Outcome{Point: p, MiBs: gauge.Of(100+float64(i), 110+float64(i)), CPUGiB: gauge.Of(3), Stages: map[string]gauge.Spread{}, Busy: map[string]gauge.Spread{}}
		for _, s := range parts() {
			x.Stages[s], x.Busy[s] = gauge.Of(0.25), gauge.Of(40)
		}
		r.Outcomes = append(r.Outcomes, x)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| defaults | 105 (100–110) | 3.00 |", "0.25, 40 %", "| inline |", "| parcel 32 MiB |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	curves := r.curves()
	if len(curves) != 3 || curves[0].Name != "chunker=1" || len(curves[0].Points) < 3 || curves[0].Points[0].X != 1 || curves[0].Points[1].Low != 100 {
		t.Errorf("curves %+v", curves)
	}
	names, layers := r.stacks()
	if len(layers) != 8 || len(names) != len(layers[0].Values) || names[0] != "defaults" {
		t.Errorf("%v, %+v", names, layers)
	}
	dir := t.TempDir()
	if err := r.Draw(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"scaling.svg", "cpu.svg"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Contains(b, []byte("<svg")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
