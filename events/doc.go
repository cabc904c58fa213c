// Package events holds the facts of a vault and their wire form.
//
// A fact says what has happened: one struct per fact, named in the past tense,
// with the program part that writes it and those that read it in its comment.
// A [Record] is a fact with its time and job, as the ledger keeps it. Begin
// with [Fact]; write with [EncodeRecords], read with [DecodeRecords].
//
// # Promises
//
// A fact is never taken back and never changed; a later fact may say more.
// Fields are only ever added, so each wire form that was ever written can be
// read for ever: an absent field is the zero value, an unknown field is
// skipped, an unknown kind becomes [Unknown]. A decoded record keeps its bytes
// in Raw, and encoding it again gives the same bytes, so that an older program
// copies a newer program's facts unharmed. The bytes of a fact depend on its
// values alone (maps are written in order of their keys).
//
// The wire form is msgpack: [kind, time, job, fact]. The page
// docs/format/facts.md lists every fact and field; the golden files in testdata
// hold one of each.
//
// # Foreign bytes
//
// [Unmarshal] is the one decoder for msgpack that comes from outside the
// process: facts, segment headers, parcels. It walks the bytes before it
// decodes them and refuses what could allocate more than it has earned, because
// the msgpack library takes lengths on trust: thirteen bytes can make it ask
// for 8 GiB, which ends the process.
//
// The package does no I/O, has no state and takes no clock; everything in it
// may be used by any number of goroutines.
package events

import (
	"time"

	"github.com/millrace-backup/millrace/id"
)

// Fact is one thing that happened. The facts of this package are plain values
// (never pointers); a type switch over them with a default for [Unknown] is how
// readers fold them.
type Fact interface {
	// Kind is the fact's name on the wire, the same as its type's name.
	Kind() string
}

// Record is a fact as the ledger keeps it.
type Record struct {
	// Position is the number of the ledger segment that holds the record. It
	// is not on the wire: a record's place is what the ledger proves. Records
	// of one segment share it and are kept in order.
	Position uint64 `json:"position"`
	// Time is when the writer appended the fact, in UTC, to the microsecond.
	// It is what the writer's clock said; order comes from Position.
	Time time.Time `json:"time"`
	// Kind is Fact.Kind().
	Kind string `json:"kind"`
	// Job is the run that wrote the fact.
	Job id.Job `json:"job"`
	// Fact is the decoded fact, or Unknown.
	Fact Fact `json:"fact"`
	// Raw is the record's wire form if it was decoded from one. Whoever
	// changes a decoded record and wants the change written sets it to nil.
	Raw []byte `json:"-"`
}

// NewRecord makes the record of a fact that job established at the time now.
func NewRecord(now time.Time, job id.Job, f Fact) Record {
	return Record{Time: At(now).Time(), Kind: f.Kind(), Job: job, Fact: f}
}

// Unknown is a fact of a kind that this program does not know, written by a
// later one. Readers skip it.
type Unknown struct {
	Name string `json:"kind"`
	Body []byte `json:"body"` // the msgpack form of the fact itself
}

// Kind returns the name the fact was written under.
func (u Unknown) Kind() string { return u.Name }

// Micros is a time on the wire: microseconds since 1970-01-01 UTC. Zero is
// "not known".
type Micros int64

// At converts a time, dropping what is finer than a microsecond.
func At(t time.Time) Micros {
	if t.IsZero() {
		return 0
	}
	return Micros(t.UnixMicro())
}

// Time returns the time in UTC; the zero Micros gives the zero time.
func (m Micros) Time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(m)).UTC()
}

// String is the RFC 3339 form with microseconds, or "-" when not known.
func (m Micros) String() string {
	if m == 0 {
		return "-"
	}
	return m.Time().Format("2006-01-02T15:04:05.000000Z07:00")
}
