// Package parallel says how many workers a stage of a job may have, how many it has
// where nobody says, and how large parcels and arena are for them.
//
// [Default] derives the number for every stage from the processors of the machine; it
// is the only place that does, so that the sweep of the benchmarks judges one function.
// [Check] says in words why a stage cannot have a number of workers; the command line,
// a job that begins and one that is tuned all ask it. [Room] sizes the rest. All are
// pure functions.
package parallel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/flow"
)

// MaxWorkers is how many workers a stage may have.
const MaxWorkers = 64

// Default derives the workers per stage from the number of processors.
// Seal is two thirds of all work; one chunker keeps about five seals busy.
func Default(cpus int) map[string]int {
	p := map[string]int{}
	for _, s := range flow.Stages() {
		p[s] = 1
	}
	p[flow.Seal] = max(2, min(MaxWorkers, cpus*2/3))
	p[flow.Chunker] = max(1, min(MaxWorkers, p[flow.Seal]/5))
	p[flow.Reader] = max(1, min(MaxWorkers, cpus/16))
	p[flow.Uploader] = max(1, min(MaxWorkers, cpus/16))
	return p
}

// Check says why a stage cannot have n workers, nil if it can. remote are the
// stages that may be left to workers elsewhere, with none here.
func Check(stage string, n int, remote []string) error {
	switch {
	case !slices.Contains(flow.Stages(), stage):
		return fmt.Errorf("there is no stage %q: they are %s", stage, strings.Join(flow.Stages(), ", "))
	case stage == flow.Snapshot && n != 1:
		return fmt.Errorf("%s has one worker, not %d: it holds the guests' disks still, which is one lock", stage, n)
	case stage == flow.Indexer && n != 1:
		return fmt.Errorf("%s has one worker, not %d: it keeps the job's one journal and writes its facts in order", stage, n)
	case n == 0 && slices.Contains(remote, stage):
		return nil
	case n == 0 && slices.Contains(flow.Remotable(), stage):
		return fmt.Errorf("%s=0 would leave nobody for its work: it has 1 to %d workers, or 0 where --remote leaves it to others", stage, MaxWorkers)
	case n < 1 || n > MaxWorkers:
		return fmt.Errorf("%s=%d: it has 1 to %d workers", stage, n, MaxWorkers)
	}
	return nil
}
