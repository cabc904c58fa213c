package conductor

import (
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

	Parallel   map[string]int // workers per stage
	CPUs       int
	Codec      string
	Freeze     string       // require, prefer, never
	Scan       string       // auto, full, incremental, differential
	Transport  string       // auto, claim, inline
	NATS       courier.Dial // a server elsewhere; no URL: one of the job's own
	Remote     []string     // stages that workers elsewhere may serve
	Memory     int64        // of the arena, bytes
	ParcelSize int64        // bytes, a multiple of the vault's cell size

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

// Limits of what an operator may ask for.
const (
	minMemory   = 16 << 20
	usualParcel = 4 << 20 // what the numbers of slots are for
)

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
		o.ParcelSize = o.parcel(cell)
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

// parcel is how much travels together where nobody says: two cells, which halves what
// messages cost, where memory has a slot of that size for each who reads or works on
// raw bytes; one where the bytes are in the messages, since a server holds many of
// those. Cells that are larger than usual are parcels enough.
func (o *Options) parcel(cell int64) int64 {
	if o.Transport == flow.Inline || len(o.Remote) > 0 || cell > usualParcel {
		return cell
	}
	if o.Memory > 0 && o.Memory/int64(arena.SealedSize(int(2*cell)))/4 < int64(o.readers()) {
		return cell
	}
	return 2 * cell
}

// readers counts the workers that have a slot of raw bytes in hand, and two that wait.
func (o *Options) readers() int {
	return o.Parallel[flow.Reader] + o.Parallel[flow.Chunker] + o.Parallel[flow.Seal] + 2
}

func ptr(s string) *string { return &s }

// shape sizes the arena: slots to read into, and enough sealed ones that a whole
// pack can be held until it is durable.
func (o *Options) shape(disks []flow.WorkDisk) arena.Shape {
	raw, sealed := int(o.ParcelSize), arena.SealedSize(int(o.ParcelSize))
	// As many bytes whatever the parcels, within reason: larger ones need fewer slots.
	scale := func(n int) int { return max(n/2, n*usualParcel/max(raw, usualParcel)) }
	s := arena.Shape{
		RawSize: raw, SealedSize: sealed,
		RawSlots:    max(scale(max(8, 2*o.readers()-4)), o.readers()),
		SealedSlots: scale(max(24, 4*o.Parallel[flow.Seal]+16*o.Parallel[flow.Uploader])),
	}
	if o.Transport == flow.Inline { // a slot is free as soon as its bytes are in a message
		s.RawSlots, s.SealedSlots = max(1, 4*o.Parallel[flow.Reader]), max(1, 4*o.Parallel[flow.Seal])
	}
	if o.Memory > 0 {
		slots := int(o.Memory / int64(sealed))
		s.RawSlots = min(s.RawSlots, max(1, slots/4))
		s.SealedSlots = min(s.SealedSlots, max(1, slots-s.RawSlots))
	}
	var bytes int64
	for _, d := range disks {
		bytes += d.Info.VirtualSize
	}
	s.RecentEntries = 1 << 10
	for want := min(bytes/(48<<10), 1<<21); int64(s.RecentEntries) < want; {
		s.RecentEntries *= 2
	}
	return s
}

// settings is how facts record the tunables.
func (o *Options) settings() map[string]string {
	m := map[string]string{
		"codec": o.Codec, "freeze": o.Freeze, "scan": o.Scan, "transport": o.Transport,
		"parcel": strconv.FormatInt(o.ParcelSize, 10), "cpus": strconv.Itoa(o.CPUs),
	}
	for stage, n := range o.Parallel {
		m["parallel."+stage] = strconv.Itoa(n)
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
	Outcome    string // done, part, failed, interrupted, busy
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
