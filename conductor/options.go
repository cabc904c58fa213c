package conductor

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/conductor/parallel"
	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/stages/indexer"
	"github.com/millrace-backup/millrace/vault"
)

// Options are what a backup needs to know. Zero values of the tunables mean the
// defaults, which Fill enters.
type Options struct {
	Vault    *vault.Vault
	Location string // URL of the vault's store, for the workers
	Ledger   *ledger.Ledger
	Catalog  *catalog.State // folded up to now
	State    string         // state directory
	Index    string         // folder of the host's chunk index of this vault
	Command  []string       // what to start for a stage; its name is appended

	Guests  []hypervisor.Guest
	Failed  []events.GuestOutcome // sources that could not be inspected: recorded, and the job is done in part
	Sources []string              // as the user named them
	Set     string
	Parents map[id.Guest]id.Point  // points to compare with instead of the guest's newest
	Domain  id.Domain              // dedup domain of all the guests, which Catalog knows; zero: the vault's default
	Chosen  *events.GuestsSelected // what the set found and protects; nil without a set

	Parallel   map[string]int // workers per stage
	CPUs       int
	Limits     map[string]int64 // bytes a second of reader and uploader, none: no limit
	Codec      string
	Freeze     string       // require, prefer, never
	Scan       string       // auto, full, incremental, differential
	Transport  string       // auto, claim, inline
	NATS       courier.Dial // a server elsewhere; no URL: one of the job's own
	Remote     []string     // stages that workers elsewhere may serve
	Memory     int64        // of the arena, bytes
	ParcelSize int64        // bytes, a multiple of the vault's cell size
	// Fleece, Granularity and GuestLatency are flow.Work's.
	Fleece       string
	Granularity  int64
	GuestLatency time.Duration

	Version string
	Host    string
	User    string
	Now     func() time.Time
	Lease   lease.Times // of heartbeats; zero: the defaults
	// How long a vault that reports I/O errors, or is away, is waited for before
	// the job stops. Zero: the defaults of package patient.
	WaitIO, WaitGone time.Duration

	// Observe is called a few times a second, and Fact for every fact of the
	// job as it enters the ledger. Both from one goroutine each; both may be nil.
	Observe func(Update)
	Fact    func(events.Record)
	// Waiting is called when another job has a guest of this one and it is not
	// known yet whether it lives. May be nil.
	Waiting func(other *catalog.Job)
	// Started is called for every worker that is started. May be nil.
	Started func(stage string, worker uint32, pid int)

	mute   time.Duration                       // for tests: see crew.Crew
	joined func(context.Context, *queue.Queue) // for tests: runs beside the job
}

// minMemory is the least that an operator may give the arena.
const minMemory = 16 << 20

// Fill enters defaults and refuses what makes no sense.
func (o *Options) Fill() error {
	if o.CPUs == 0 {
		o.CPUs = runtime.NumCPU()
	}
	workers := parallel.Default(o.CPUs)
	for stage, n := range o.Parallel {
		if err := parallel.Check(stage, n, o.Remote); err != nil {
			return fmt.Errorf("parallel: %w", err)
		}
		workers[stage] = n
	}
	o.Parallel = workers
	defaults := []struct{ field, value *string }{
		{&o.Codec, ptr("auto")}, {&o.Freeze, ptr("prefer")}, {&o.Scan, ptr("auto")},
	}
	for _, d := range defaults {
		if *d.field == "" {
			*d.field = *d.value
		}
	}
	cell := o.Vault.Config.CellSize
	if o.ParcelSize == 0 {
		o.ParcelSize = o.room().Parcel(cell, len(o.Remote) > 0)
	}
	if o.ParcelSize < cell || o.ParcelSize%cell != 0 || o.ParcelSize > 32<<20 {
		return fmt.Errorf("parcel size: %d is not a multiple of the cell size %d up to 32 MiB", o.ParcelSize, cell)
	}
	for _, stage := range o.Remote {
		if o.NATS.URL == "" || !slices.Contains(flow.Remotable(), stage) {
			return fmt.Errorf("remote: %s cannot run elsewhere, or no NATS server is given", stage)
		}
	}
	switch o.Transport {
	case "", "auto":
		o.Transport = flow.Claim
	case flow.Claim, flow.Inline:
	default:
		return fmt.Errorf("transport: there is no %q", o.Transport)
	}
	if (o.Transport == flow.Inline || len(o.Remote) > 0) && arena.SealedSize(int(o.ParcelSize)) > flow.MaxMessage-1<<20 {
		return fmt.Errorf("parcel size: %d bytes do not fit a message of %d", o.ParcelSize, flow.MaxMessage)
	}
	if o.Memory != 0 && o.Memory < max(minMemory, 3*int64(arena.SealedSize(int(o.ParcelSize)))) {
		return fmt.Errorf("memory: %d bytes are too few for parcels of %d", o.Memory, o.ParcelSize)
	}
	if _, err := vault.NewCodec(o.Codec); err != nil {
		return fmt.Errorf("codec: %w", err)
	}
	return nil
}

func ptr(s string) *string { return &s }

// room is what the sizes of parcels and arena depend on.
func (o *Options) room() parallel.Room {
	tracked := (o.Scan == "auto" || o.Scan == "incremental") && known.Tracked(o.Catalog, o.Guests)
	return parallel.Room{Workers: o.Parallel, Memory: o.Memory, Inline: o.Transport == flow.Inline, Tracked: tracked}
}

// domain is the dedup domain of the job.
func (o *Options) domain() id.Domain { return cmp.Or(o.Domain, o.Vault.Config.DefaultDomain) }

// settings is how facts record the tunables.
func (o *Options) settings() map[string]string {
	m := map[string]string{
		"codec": o.Codec, "freeze": o.Freeze, "scan": o.Scan, "transport": o.Transport,
		"parcel": strconv.FormatInt(o.ParcelSize, 10), "cpus": strconv.Itoa(o.CPUs),
	}
	for stage, n := range o.Parallel {
		m["parallel."+stage] = strconv.Itoa(n)
	}
	if o.GuestLatency > 0 {
		m["guest-latency"] = o.GuestLatency.String()
	}
	for stage, n := range o.Limits {
		m["limit."+stage] = strconv.FormatInt(n, 10)
	}
	if !o.Domain.IsZero() {
		m["domain"] = o.Domain.String()
	}
	if o.NATS.URL != "" {
		m["nats"] = "elsewhere"
		m["remote"] = strings.Join(o.Remote, ",")
	}
	return m
}

// Update is how a job stands.
type Update struct {
	Job      id.Job
	Elapsed  time.Duration
	Stages   []crew.Stage // in flow order
	Progress indexer.Progress
	Work     *flow.Work
	Waits    string // what the job waits for, if the vault is away; else ""
	Report   board.Report
}

// Summary is what came of a job.
type Summary struct {
	Job        id.Job
	Jobs       []id.Job // if it sums up several, of which Job is the last
	Outcome    string   // done, part, failed, interrupted, busy
	Guests     []events.GuestOutcome
	Finished   events.JobFinished
	Position   uint64 // of JobFinished in the ledger
	Checkpoint ledger.Checkpoint
	Duration   time.Duration
	CPU        time.Duration // of the workers
	Stages     []crew.Stage
	Report     board.Report
	SlotsLeft  int // in use after the last worker had left: 0 unless the job was stopped
}

// Points lists what was committed.
func (s Summary) Points() (out []id.Point) {
	for _, g := range s.Guests {
		if !g.Point.IsZero() {
			out = append(out, g.Point)
		}
	}
	return out
}
