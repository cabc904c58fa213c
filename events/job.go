package events

import "github.com/millrace-backup/millrace/id"

// JobStarted opens a job: what was asked for and with which settings.
// Written by conductor. Read by audit, catalog, metrics, prune (a job that began
// and has not ended holds what it may reference) and every job that wants a guest.
type JobStarted struct {
	Verb     string            `json:"verb"` // backup, restore, verify, …
	Host     string            `json:"host"`
	PID      int               `json:"pid"`
	Version  string            `json:"version"` // program version
	OS       string            `json:"os"`      // GOOS/GOARCH
	CPUs     int               `json:"cpus"`
	By       string            `json:"by"`  // OS user
	Set      string            `json:"set"` // backup set, if one was named
	Sources  []string          `json:"sources"`
	Settings map[string]string `json:"settings"` // parallelism, codec, transport, freeze policy, scan, …
	Size     uint64            `json:"size"`     // leaves of the ledger when the job began
	Resumes  id.Job            `json:"resumes"`  // the dead job whose stored chunks this one looks for
	Lease    uint64            `json:"lease"`    // number of its first heartbeat
	Guests   []id.Guest        `json:"guests"`   // what it claims until it finishes or is fenced; none in older vaults
}

// GuestsSelected says what the job of a backup set found when it began, and which
// of it the set protects.
// Written by conductor, in the segment of JobStarted. Read by audit, catalog and
// forget.
type GuestsSelected struct {
	Set     string            `json:"set"`
	Defined uint64            `json:"defined"` // position of the SetDefined that was in force
	Sources []SourceListed    `json:"sources"`
	Guests  []GuestChoice     `json:"guests"`  // all that were found
	Gone    []GuestChoice     `json:"gone"`    // that the run before protected and this one did not find
	Outdone map[string]string `json:"outdone"` // what the set says of policies that the command line had another word for
}

// SourceListed is what was found in a source of a set.
type SourceListed struct {
	Source string   `json:"source"`
	Tags   []string `json:"tags"`
	Guests uint32   `json:"guests"`
	Passed uint32   `json:"passed"` // entries that are no guests
	Cause  string   `json:"cause"`  // why it could not be listed
}

// GuestChoice is a guest that was found, and whether the set protects it.
type GuestChoice struct {
	Guest    id.Guest `json:"guest"`
	Name     string   `json:"name"`
	Source   string   `json:"source"`
	Selected bool     `json:"selected"`
	By       string   `json:"by"`    // the selector that decided; none: that no selector took it, or none is needed
	New      bool     `json:"new"`   // the run before did not protect it
	Cause    string   `json:"cause"` // why it could not be looked at
}

// JobFinished closes a job. A job without one died; its packs stay usable.
// Written by conductor. Read by audit, catalog, metrics, console and prune.
type JobFinished struct {
	Outcome        string            `json:"outcome"` // done, part, failed, interrupted, busy (other jobs have all of its guests)
	Guests         []GuestOutcome    `json:"guests"`
	DiskBytes      int64             `json:"disk_bytes"`
	ReadBytes      int64             `json:"read_bytes"`
	ZeroBytes      int64             `json:"zero_bytes"`
	UnchangedBytes int64             `json:"unchanged_bytes"`
	KnownBytes     int64             `json:"known_bytes"`
	NewBytes       int64             `json:"new_bytes"`
	StoredBytes    int64             `json:"stored_bytes"`
	DurationNS     int64             `json:"duration_ns"`
	Cause          string            `json:"cause"`    // why, unless done
	Settings       map[string]string `json:"settings"` // as they were at the end, after tuning
	Stages         []StageAccount    `json:"stages"`   // in flow order; none in older vaults
}

// StageAccount is how a stage spent a job: the sums over all workers it ever had,
// and what no single worker can say.
type StageAccount struct {
	Stage       string `json:"stage"`
	Workers     uint32 `json:"workers"`   // that were wanted at the end
	Most        uint32 `json:"most"`      // that were there at one moment
	Processes   uint32 `json:"processes"` // that there were in all
	Restarts    uint32 `json:"restarts"`
	BusyNS      int64  `json:"busy_ns"`
	StarvedNS   int64  `json:"starved_ns"`
	BlockedNS   int64  `json:"blocked_ns"`
	CPUNS       int64  `json:"cpu_ns"` // user and system
	InParcels   uint64 `json:"in_parcels"`
	OutParcels  uint64 `json:"out_parcels"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
	Redelivered uint64 `json:"redelivered"`
	Stale       uint64 `json:"stale"`
	QueueMax    uint64 `json:"queue_max"` // parcels that waited for the stage or were with it, at most
	QueueNS     int64  `json:"queue_ns"`  // their number, summed up over time: divided by WatchedNS it is the mean
	WatchedNS   int64  `json:"watched_ns"`
}

// GuestOutcome is how a job went for one guest. Code and what follows it are
// set when there is no point.
type GuestOutcome struct {
	Guest   id.Guest `json:"guest"`
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"` // done, failed, skipped
	Point   id.Point `json:"point"`
	Code    string   `json:"code"`
	Op      string   `json:"op"`     // what was being done
	Object  string   `json:"object"` // to what
	Cause   string   `json:"cause"`
	Remedy  string   `json:"remedy"` // what the operator can do
}

// JobFenced says that another job has taken over because this one's heartbeats
// had stopped. The fenced job commits nothing after it.
// Written by the conductor that takes over. Read by every job before it commits.
type JobFenced struct {
	Fenced id.Job     `json:"fenced"`
	Guests []id.Guest `json:"guests"` // what the new job takes over
	Lease  uint64     `json:"lease"`  // the last heartbeat seen
	Host   string     `json:"host"`   // of the fenced job
	Why    string     `json:"why"`
}

// StageStarted says that a worker runs and has reported ready.
// Written by conductor. Read by audit, metrics and the console.
type StageStarted struct {
	Stage     string            `json:"stage"`
	Worker    uint32            `json:"worker"` // ordinal among all workers of the job
	PID       int               `json:"pid"`
	Host      string            `json:"host"`
	Restart   uint32            `json:"restart"`   // how often this worker had ended before
	Transport string            `json:"transport"` // claim or inline
	Settings  map[string]string `json:"settings"`
}

// StageStopped is the account of one worker's life. Busy, starved (waiting for
// input) and blocked (waiting for room) add up to its time.
// Written by conductor from the worker's own counters. Read by audit, metrics
// and tune.
type StageStopped struct {
	Stage       string `json:"stage"`
	Worker      uint32 `json:"worker"`
	PID         int    `json:"pid"`
	Exit        string `json:"exit"` // "ok", "exit 1", "signal: killed"
	BusyNS      int64  `json:"busy_ns"`
	StarvedNS   int64  `json:"starved_ns"`
	BlockedNS   int64  `json:"blocked_ns"`
	InParcels   uint64 `json:"in_parcels"`
	OutParcels  uint64 `json:"out_parcels"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
	Redelivered uint64 `json:"redelivered"`
	Stale       uint64 `json:"stale"` // claims whose slot had moved on
	Restarts    uint32 `json:"restarts"`
	CPUNS       int64  `json:"cpu_ns"`  // user and system
	MaxRSS      int64  `json:"max_rss"` // bytes
}

// StageScaled says that the number of a stage's workers was changed.
// Written by conductor. Read by audit, metrics and tune.
type StageScaled struct {
	Stage string `json:"stage"`
	From  uint32 `json:"from"`
	To    uint32 `json:"to"`
	By    string `json:"by"` // auto, or the user who asked
	Why   string `json:"why"`
	At    Micros `json:"at"` // when; the record's own time may be ten seconds later; 0 in older vaults
}
