package parallel

import (
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/flow"
)

// Whatever the machine, every stage has a number of workers that Check allows, more
// processors never give fewer, and the stages with one have one.
func TestDefaultsFitEveryMachine(t *testing.T) {
	before := Default(1)
	for cpus := 1; cpus <= 4096; cpus++ {
		p := Default(cpus)
		if len(p) != len(flow.Stages()) {
			t.Fatalf("%d processors: %v", cpus, p)
		}
		for stage, n := range p {
			if err := Check(stage, n, nil); err != nil {
				t.Errorf("%d processors: %v", cpus, err)
			}
			if n < before[stage] {
				t.Errorf("%s has %d workers on %d processors, %d on one less", stage, n, cpus, before[stage])
			}
		}
		before = p
	}
	if p := Default(2); p[flow.Seal] < 2 {
		t.Errorf("two processors, and seal, two thirds of the work, has %d workers", p[flow.Seal])
	}
}

func TestCheck(t *testing.T) {
	remote := []string{flow.Seal}
	for _, c := range []struct {
		stage string
		n     int
		cause string // "": it can be
	}{
		{flow.Seal, 1, ""}, {flow.Seal, 64, ""}, {flow.Delta, 7, ""}, {flow.Seal, 0, ""}, {flow.Snapshot, 1, ""}, {flow.Indexer, 1, ""},
		{flow.Seal, 65, "1 to 64"}, {flow.Seal, -1, "1 to 64"}, {flow.Reader, 0, "--remote"}, {flow.Delta, 0, "1 to 64"},
		{flow.Snapshot, 2, "one lock"}, {flow.Snapshot, 0, "one lock"}, {flow.Indexer, 2, "one journal"}, {"sealer", 1, "they are snapshot, reader"}, {"", 1, "no stage"},
	} {
		err := Check(c.stage, c.n, remote)
		if (err == nil) != (c.cause == "") || err != nil && !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s=%d: %v", c.stage, c.n, err)
		}
	}
}
