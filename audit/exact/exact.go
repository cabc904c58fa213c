// Package exact makes sure that jobs accounted for every byte of disk exactly once.
//
// [Check] folds the facts of every job of a ledger with [audit.Timeline] and returns where
// they contradict each other: bytes that are zero, unchanged, known and new do not add up
// to the disk, a disk was sealed that nobody planned, a point has other disks or another
// size than were sealed, the sums at a job's end are not those of its facts. The tests of
// the conductor and of the command line call it for every job they run; it is a library
// because both do, and takes records because that is all it needs.
package exact

import (
	"errors"
	"fmt"
	"iter"

	"github.com/millrace-backup/millrace/audit"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// ErrInexact: the facts of a job contradict each other.
var ErrInexact = errors.New("bytes are not accounted for exactly once")

// Check folds each job among records, which it runs through once more for each of them,
// and returns all that is wrong, joined; ErrInexact is in its chain.
func Check(records iter.Seq2[events.Record, error]) error {
	var jobs []id.Job
	for r, err := range records {
		if err != nil {
			return err
		}
		if _, ok := r.Fact.(events.JobStarted); ok {
			jobs = append(jobs, r.Job)
		}
	}
	var wrong []error
	for _, j := range jobs {
		a, err := audit.Timeline(records, j)
		if err != nil {
			return err
		}
		for _, f := range a.Findings {
			wrong = append(wrong, fmt.Errorf("job %s: %s: %w", j, f, ErrInexact))
		}
	}
	return errors.Join(wrong...)
}
