// Package address has the names by which the processes of a job find each other
// on a NATS server: its streams, and the subjects in them. All of them hold the
// job's id, so that any number of jobs can share a server, and one letter that
// says what goes there. Nothing else may be made up by anybody: a worker's
// credentials (package hub) allow the subjects of this page and no others.
package address

import (
	"fmt"

	"github.com/millrace-backup/millrace/id"
)

// ByteStream is the name of the queue of the job's parcels that have their bytes
// with them. It is apart from the other one, so that questions, answers and plans
// never wait behind bytes.
func ByteStream(job id.Job) string { return "B_" + job.String() }

// ByteSubject is where parcels with their bytes are published for a stage.
func ByteSubject(job id.Job, stage string) string { return "b." + job.String() + "." + stage }

// ByteSubjects matches the subjects of all stages of a job.
func ByteSubjects(job id.Job) string { return "b." + job.String() + ".*" }

// Stream is the name of a job's work queue.
func Stream(job id.Job) string { return "J_" + job.String() }

// FactStream is the name of a job's live copy of ledger facts.
func FactStream(job id.Job) string { return "F_" + job.String() }

// FactSubject is where the job's facts are published once they are in the vault.
func FactSubject(job id.Job) string { return "f." + job.String() }

// Subject is where messages for a stage are published.
func Subject(job id.Job, stage string) string { return "j." + job.String() + "." + stage }

// Subjects matches the subjects of all stages of a job.
func Subjects(job id.Job) string { return "j." + job.String() + ".*" }

// StatusSubject is where a worker says how it is doing.
func StatusSubject(job id.Job, worker uint32) string {
	return fmt.Sprintf("w.%s.%d", job, worker)
}

// StatusSubjects matches the reports of all workers of a job.
func StatusSubjects(job id.Job) string { return "w." + job.String() + ".*" }

// ProgressSubject is where the indexer says how far the job is.
func ProgressSubject(job id.Job) string { return "p." + job.String() }

// Inbox is the prefix of the subjects on which a worker gets replies.
func Inbox(worker uint32) string { return fmt.Sprintf("_INBOX_%d", worker) }
