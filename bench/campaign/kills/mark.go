package kills

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// mark is a moment in a job's life, named by what the job has done so far and not by
// the clock: on a machine whose speed changes, a time drawn beforehand falls behind
// the end of every fourth job.
type mark struct {
	kind string
	// share, of what the kind counts in an undisturbed job, that must be done.
	share float64
	// more is how much later than that, so that blows do not all fall where
	// something has just happened.
	more time.Duration
}

const (
	atStart   = "at start"   // workers that run, of one a stage
	atReading = "at reading" // bytes that readers have read, of those the disk has
	atStoring = "at storing" // bytes below packs/ and tmp/, of those a full backup leaves
	atCommit  = "at commit"  // objects other than packs: segments, tables, the point, checkpoints
)

// course is what an undisturbed job does, by which marks are measured.
type course struct {
	workers int
	read    int64 // bytes
	stored  int64 // bytes
	objects int   // without packs
	// serving is how many of objects there are when its workers begin to leave.
	serving int
}

// draw draws a moment. A blow that needs workers comes while there are some.
func draw(rng *rand.Rand, increment, needsWorkers bool, c course) mark {
	kinds := []string{atStart, atReading, atReading, atStoring, atStoring, atCommit, atCommit, atCommit}
	m := mark{kind: kinds[rng.IntN(len(kinds))], share: rng.Float64(), more: time.Duration(rng.IntN(12_000)) * time.Microsecond}
	if increment && m.kind == atStoring { // so little that it is stored at one instant
		m.kind = atReading
	}
	switch {
	case m.kind == atCommit && needsWorkers && c.objects > 0:
		m.share *= float64(c.serving) / float64(c.objects)
		m.more = 0
	case m.kind == atCommit && m.share > 0.8:
		m.more = 0 // the end is near
	}
	return m
}

// want is how much of what its kind counts makes up the mark.
func (m mark) want(c course) int64 {
	switch m.kind {
	case atStart:
		return int64(m.share * float64(c.workers+1)) // 0: at once
	case atReading:
		return int64(m.share * float64(c.read))
	case atStoring:
		return int64(m.share * float64(c.stored))
	}
	return 1 + int64(m.share*float64(c.objects))
}

func (m mark) String() string {
	return fmt.Sprintf("%s, %.0f %% and %s", m.kind, 100*m.share, m.more.Round(100*time.Microsecond))
}
