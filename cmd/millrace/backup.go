package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/cmd/millrace/bydomain"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/guests"
	"github.com/millrace-backup/millrace/cmd/millrace/serve"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/conductor/parallel"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

type backupOptions struct {
	guests.Options
	set       string
	given     func(flag string) bool // on the command line, in the environment or in a file
	codec     string
	limits    map[string]*string // by flag
	freeze    string
	domain    string
	scan      string
	transport string
	remote    []string
	nats      serve.NATS
	parallel  map[string]string
	cpus      int
	memory    string
	parcel    string
	fleece    string
	latency   time.Duration
	blocks    string // granularity of dirty bitmaps
	profile   string
	metrics   string
	file      string // for metrics
}

func (a *app) backupCommand() *cobra.Command {
	var o backupOptions
	c := &cobra.Command{
		Use:   "backup SOURCE... | --set NAME",
		Short: "Back up guests into the vault",
		Long: `Back up guests into the vault.

SOURCE is folder:PATH (a disk image, or a folder of them, is one guest); a bare PATH
means the same. A guest that fails gets no point and the others go on (exit 3).

With --set, the guests are those that the backup set means at this moment, and what the
set says of --scan, --freeze, --codec, --domain and --limit-* holds unless a flag says
otherwise. A selector that finds nothing, or a source that cannot be listed, is a failure
of its own (exit 3; 1 if there is nothing to back up at all). millrace audit show tells
what was selected and why.`,
		RunE: func(c *cobra.Command, args []string) error {
			o.given = c.Flags().Changed
			if err := o.oneWay(args); err != nil {
				return err
			}
			stop, err := profile(o.profile, "conductor")
			if err != nil {
				return err
			}
			return errors.Join(a.backup(c.Context(), args, o), stop())
		},
	}
	f := c.Flags()
	f.StringVar(&o.set, "set", "", "back up what this backup set means")
	f.StringVar(&o.GuestID, "guest-id", "", "id of the guest, when it has one from elsewhere (a UUID)")
	f.StringSliceVar(&o.Disks, "disk", nil, "back up only these disks, by their name in the guest")
	f.StringSliceVar(&o.Exclude, "exclude-disk", nil, "leave these disks out; the point lists them as unprotected")
	f.BoolVar(&o.Bare, "no-checkpoints", false, "of an exported machine keep the disks only, not the tree of its configurations, saved states and checkpoints")
	f.StringVar(&o.codec, "codec", "auto", "compression: auto, minlz, s2, lz4, zstd or none")
	o.limits = map[string]*string{
		"limit-read":   f.String("limit-read", "none", "bytes a second that all readers of a machine together read at most, as 50MiB"),
		"limit-upload": f.String("limit-upload", "none", "bytes a second that all uploaders of a machine together write at most, as 50MiB"),
	}
	f.StringVar(&o.freeze, "freeze", "prefer", "consistency: require, prefer or never")
	f.StringVar(&o.domain, "domain", "", "whose keys seal the guests: vault (all guests'), or guest (each its own, so that it can be shredded); default: as each guest is")
	f.StringVar(&o.scan, "scan", "auto", "what is read and compared: auto, full, incremental or differential")
	f.StringVar(&o.transport, "transport", "auto", "how bytes travel between stages: auto, claim (shared memory) or inline (in messages)")
	f.StringSliceVar(&o.remote, "remote", nil, "stages that workers elsewhere may serve, with --nats: "+strings.Join(flow.Remotable(), ", "))
	o.nats.Add(c)
	f.StringToStringVar(&o.parallel, "parallel", nil, "workers per stage, as chunker=2,seal=3")
	f.IntVar(&o.cpus, "cpus", 0, "processors to plan for (default: this machine's)")
	f.StringVar(&o.memory, "memory", "", "size of the arena, as 64MiB")
	f.StringVar(&o.parcel, "parcel", "", "bytes that travel together, a multiple of the cell size (default: two cells, four where changes are tracked, or one where bytes travel in messages or memory is short)")
	f.DurationVar(&o.latency, "guest-latency", 50*time.Millisecond, "how long a running guest's requests to its disks may take, on average, before it is read more slowly; 0: as long as they take")
	f.StringVar(&o.fleece, "fleece", "", "folder for what guests overwrite while they are backed up (default: the job's, in the state folder)")
	f.StringVar(&o.blocks, "bitmap-granularity", "", "unit in which new dirty bitmaps tell changes, as 64KiB (default: the finest, from 4KiB, that takes no more than 16 MiB of memory)")
	f.StringVar(&o.profile, "profile", "", "folder in which each process of the job leaves a profile of its processor time")
	_ = f.MarkHidden("profile") // for those who work on the program
	f.StringVar(&o.metrics, "metrics", "", "serve figures of the job for Prometheus at this address, as 127.0.0.1:9465")
	f.StringVar(&o.file, "metrics-file", "", "write the same at the end into this file, for a textfile collector")
	return c
}

func (a *app) backup(ctx context.Context, sources []string, o backupOptions) error {
	opts, err := o.conductor()
	if err != nil {
		return err
	}
	if len(o.remote) > 0 && a.Settings.NATS == "" {
		return fault.Usage("--remote is for jobs on a NATS server that others can reach: give --nats")
	}
	if opts.NATS, err = o.nats.Dial(a.Settings.NATS); err != nil {
		return err
	}
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	o.Vault = v.ID
	if o.set != "" {
		sources, err = a.fromSet(ctx, v, &o, &opts)
	} else {
		opts.Guests, opts.Failed, err = o.Inspect(ctx, sources)
	}
	if err != nil {
		return err
	}
	for _, g := range opts.Guests {
		for _, u := range g.Unprotected {
			a.Note("millrace: %s: %q is not backed up: %s", g.Name, u.Key, u.Reason)
		}
	}
	if slices.ContainsFunc(opts.Guests, func(g hypervisor.Guest) bool { return g.Driver == qemu.Name }) {
		opts.GuestLatency = max(o.latency, 0)
	}
	a.sweep(ctx, v)
	groups, err := bydomain.Plan(ctx, a.App, v, opts.Guests, o.domain)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fault.At("find", "this program", err)
	}
	opts.Command = []string{exe, "stage"}
	if o.profile != "" {
		opts.Command = append(opts.Command, "--profile", o.profile)
	}
	opts.Vault, opts.Ledger, opts.Location, opts.State, opts.Sources = v.Vault, v.Ledger, v.Location, a.Settings.State, sources
	opts.Waiting = a.waiting
	opts.Version, opts.Now = version().Version, a.Now
	opts.Host, _ = os.Hostname()
	opts.User = session.User()
	show := a.jobProgress()
	opts.Observe, opts.Fact = show.update, show.fact
	told, err := a.measure(o.metrics, o.file, &opts)
	if err != nil {
		return err
	}
	s, err := bydomain.Run(ctx, v, opts, groups)
	show.done()
	told(s)
	if s.Checkpoint.Size > 0 {
		a.Remember(v)
		v.Save(ctx)
	}
	if s.Job.IsZero() || s.Outcome == "" {
		return fault.FromFlow(err)
	}
	if err := a.printSummary(s, err); err != nil {
		return err
	}
	return v.Unwitnessed()
}

// waiting says why a job does not begin at once.
func (a *app) waiting(other *catalog.Job) {
	s := other.Started
	a.Note("millrace: job %s on host %s (process %d) has a guest of this one; looking whether it lives, which takes up to half a minute", id.Short(other.ID), s.Host, s.PID)
}

// conductor translates what the user asked for.
func (o *backupOptions) conductor() (c conductor.Options, err error) {
	c = conductor.Options{Codec: o.codec, Freeze: o.freeze, Scan: o.scan, Transport: o.transport, CPUs: o.cpus, Parallel: map[string]int{}}
	for name, allowed := range map[string]struct {
		value string
		words []string
	}{
		"freeze": {o.freeze, selection.Words("freeze")}, "scan": {o.scan, selection.Words("scan")},
		"codec": {o.codec, selection.Words("codec")}, "transport": {o.transport, []string{"auto", "claim", "inline"}},
	} {
		if !slices.Contains(allowed.words, allowed.value) {
			return c, fault.Usage("--%s %s: it is one of %s", name, allowed.value, strings.Join(allowed.words, " "))
		}
	}
	if o.domain != "" && !slices.Contains(bydomain.Words(), o.domain) {
		return c, fault.Usage("--domain %s: it is one of %s", o.domain, strings.Join(bydomain.Words(), " "))
	}
	for stage, text := range o.parallel {
		n, err := strconv.Atoi(text)
		if err != nil {
			return c, fault.Usage("--parallel %s=%s: it is STAGE=N, with N a number of workers", stage, text)
		}
		if err := parallel.Check(stage, n, o.remote); err != nil {
			return c, fault.Usage("--parallel: %w", err)
		}
		c.Parallel[stage] = n
	}
	for name, size := range map[string]struct {
		text string
		to   *int64
	}{"memory": {o.memory, &c.Memory}, "parcel": {o.parcel, &c.ParcelSize}, "bitmap-granularity": {o.blocks, &c.Granularity}} {
		if size.text == "" {
			continue
		}
		n, err := humanize.ParseBytes(size.text)
		least := map[string]uint64{"memory": 16 << 20, "parcel": 4 << 20, "bitmap-granularity": 512}[name]
		if err != nil || n < least || n > 1<<40 {
			return c, fault.Usage("--%s %s: give a size of %s or more, as 64MiB", name, size.text, humanize.IBytes(least))
		}
		if has := machineMemory(); name == "memory" && has > 0 && n > has {
			return c, &fault.Fault{Code: "usage", Op: "read command line", Err: fmt.Errorf("--memory %s: this machine has %s", size.text, humanize.IBytes(has)),
				Remedy: "give less, or leave the flag out: the default is enough on any machine"}
		}
		*size.to = int64(n)
	}
	for _, stage := range o.remote {
		if !slices.Contains(flow.Remotable(), stage) {
			return c, fault.Usage("--remote %s: elsewhere can run %s", stage, strings.Join(flow.Remotable(), ", "))
		}
	}
	if c.Granularity&(c.Granularity-1) != 0 || c.Granularity > 2<<30 {
		return c, fault.Usage("--bitmap-granularity %s: give a power of two up to 2GiB", o.blocks)
	}
	if c.Fleece = o.fleece; o.fleece != "" {
		if c.Fleece, err = filepath.Abs(o.fleece); err != nil {
			return c, fault.Usage("--fleece %s: %w", o.fleece, err)
		}
	}
	c.Remote = o.remote
	if err := o.limit(&c); err != nil {
		return c, err
	}
	if o.cpus < 0 || o.cpus > 4096 {
		return c, fault.Usage("--cpus %d is not possible", o.cpus)
	}
	return c, nil
}

// limit enters the rates.
func (o *backupOptions) limit(c *conductor.Options) error {
	c.Limits = map[string]int64{}
	for name, stage := range map[string]string{"limit-read": flow.Reader, "limit-upload": flow.Uploader} {
		n, err := selection.Rate(*o.limits[name])
		if err != nil {
			return fault.Usage("--%s %s: it is none, or 64KiB or more a second, as 50MiB", name, *o.limits[name])
		}
		if n > 0 {
			c.Limits[stage] = n
		}
	}
	return nil
}

// jobSummary is the last line of backup --json.
type jobSummary struct {
	Type       string     `json:"type"`
	Job        id.Job     `json:"job"`            // the last, of several
	Jobs       []id.Job   `json:"jobs,omitempty"` // one for each domain, if the guests are in several
	Points     []id.Point `json:"points"`
	Outcome    string     `json:"outcome"`
	DiskBytes  int64      `json:"disk_bytes"`
	ReadBytes  int64      `json:"read_bytes"`
	ZeroBytes  int64      `json:"zero_bytes"`
	Unchanged  int64      `json:"unchanged_bytes"`
	Known      int64      `json:"known_bytes"`
	New        int64      `json:"new_bytes"`
	Stored     int64      `json:"stored_bytes"`
	Duration   float64    `json:"duration_s"`
	CPU        float64    `json:"cpu_s"` // of the workers
	Position   uint64     `json:"position"`
	Checkpoint uint64     `json:"checkpoint"`
	Root       string     `json:"root"` // of the ledger at the checkpoint
}

// printSummary says what came of the job and returns the error the command ends with.
func (a *app) printSummary(s conductor.Summary, stopped error) error {
	end := fault.FromFlow(stopped)
	nothing := slices.ContainsFunc(s.Guests, func(g events.GuestOutcome) bool { return g.Code == "selects-nothing" || g.Code == "guest-gone" })
	damaged := slices.ContainsFunc(s.Guests, func(g events.GuestOutcome) bool { return g.Code == "damaged" })
	if end == nil && s.Outcome == "busy" {
		end = &fault.Fault{Code: "guest-busy", Op: "back up", Object: "job " + id.Short(s.Job), Err: errors.New("other jobs are backing up all of its guests")}
	}
	if end == nil && s.Outcome == "part" {
		f := &fault.Fault{Code: "part-failed", Op: "back up", Object: "job " + id.Short(s.Job), Err: fmt.Errorf("%d of %d guests have no new point", len(s.Guests)-len(s.Points()), len(s.Guests))}
		if damaged {
			f.Code = "damaged"
		} else if nothing && len(s.Points()) == 0 {
			f.Code, f.Err = "selects-nothing", errors.New("no guest has a new point, and there are selectors that found none; see the errors above")
		}
		end = f
	}
	if !a.Settings.JSON {
		a.printJob(s)
		return end
	}
	for _, g := range s.Guests {
		if g.Code != "" && g.Code != "interrupted" {
			a.reportFault(&fault.Fault{Code: g.Code, Op: g.Op, Object: g.Object, Err: errors.New(g.Cause), Remedy: g.Remedy}, true)
		}
	}
	if end != nil { // before the summary, which is the last line whatever happens
		f := fault.Of(end)
		a.reportFault(f, true)
		f.Reported = true
		end = f
	}
	a.printJobJSON(s)
	return end
}

func (a *app) printJobJSON(s conductor.Summary) {
	f, points := s.Finished, s.Points()
	if points == nil {
		points = []id.Point{}
	}
	a.PrintJSON(jobSummary{
		Type: "summary", Job: s.Job, Jobs: s.Jobs, Points: points, Outcome: s.Outcome, DiskBytes: f.DiskBytes, ReadBytes: f.ReadBytes, ZeroBytes: f.ZeroBytes,
		Unchanged: f.UnchangedBytes, Known: f.KnownBytes, New: f.NewBytes, Stored: f.StoredBytes, Duration: s.Duration.Seconds(), CPU: s.CPU.Seconds(),
		Position: s.Position, Checkpoint: s.Checkpoint.Size, Root: s.Checkpoint.Root.String(),
	})
}

func (a *app) printJob(s conductor.Summary) {
	f := s.Finished
	for _, g := range s.Guests {
		if g.Outcome == "done" {
			fmt.Fprintf(a.Stdout, "point %s  %s\n", id.Short(g.Point), session.Plain(g.Name))
			continue
		}
		fmt.Fprintf(a.Stdout, "no point  %s: %s %s: %s\n          %s\n",
			session.Plain(g.Name), g.Op, session.Plain(g.Object), session.Plain(g.Cause), session.Plain(g.Remedy))
	}
	fmt.Fprintf(a.Stdout, "job   %s  %s in %.1f s\n", s.Job, s.Outcome, s.Duration.Seconds())
	fmt.Fprintf(a.Stdout, "disks %s = zero %s + unchanged %s + known %s + new %s; read %s, stored %s\n", session.Size(f.DiskBytes), session.Size(f.ZeroBytes),
		session.Size(f.UnchangedBytes), session.Size(f.KnownBytes), session.Size(f.NewBytes), session.Size(f.ReadBytes), session.Size(f.StoredBytes))
	if s.Checkpoint.Size > 0 {
		fmt.Fprintf(a.Stdout, "ledger position %d, checkpoint %d %s\n", s.Position, s.Checkpoint.Size, s.Checkpoint.Root)
	}
}
