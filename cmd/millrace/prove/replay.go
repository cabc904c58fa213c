package prove

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/audit/replay"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/instant"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
)

func (a verb) replayCommand() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "replay [JOB]",
		Short: "Rebuild the state of a moment from the ledger, and compare",
		Long: `Fold the ledger again, from the vault and from nothing else, up to a moment, and show
what the vault held then: its points and what each contained, and who ran what.

--at is a position of the ledger, or a time; without it the moment is the end of the
ledger, or of JOB if one is named, of which then only its points are shown.

On the way every StateHashed fact has to be reproduced, and every snapshot of the catalog
in the vault, every copy of a point and every copy that this machine has of a segment is
compared with it, row by row. Exit code 4: one differs, and the first is named.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := moment(at)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				o.Job = args[0]
			}
			return a.replay(c.Context(), o)
		},
	}
	c.Flags().StringVar(&at, "at", "", "position of the ledger, or a time as 2026-11-22T16:07:15Z or 2026-11-22")
	return c
}

// moment understands --at.
func moment(at string) (o replay.Options, err error) {
	if at == "" {
		return o, nil
	}
	if n, err := strconv.ParseUint(at, 10, 64); err == nil {
		o.Position = &n
		return o, nil
	}
	if o.Time, err = instant.Parse(at, time.Local); err != nil {
		return o, fault.Usage("--at %s: neither a position nor a time: %w", at, err)
	}
	return o, nil
}

func (a verb) replay(ctx context.Context, o replay.Options) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	// From the vault alone: what is cached is what is judged.
	l, err := ledger.Open(ctx, v.Vault, ledger.Options{Now: a.Now})
	if err != nil {
		return fault.At("read ledger of vault", v.Location, err)
	}
	bar := a.Progress("replay ledger")
	o.Copies, o.Progress = v.Cache("ledger"), bar.At
	r, err := replay.Run(ctx, v.Vault, l, o)
	bar.Done()
	if errors.Is(err, replay.ErrMoment) && o.Position != nil {
		return fault.Usage("--at: %w", err)
	}
	if err != nil {
		return fault.At("replay ledger of vault", v.Location, err)
	}
	if a.Settings.JSON {
		a.PrintJSON(momentOf(r))
	} else if err := a.printMoment(r); err != nil {
		return fault.At("print", "the state", err)
	}
	return fault.At("replay ledger of vault", v.Location, r.Err())
}

// momentJSON is the state of a moment, for scripts.
type momentJSON struct {
	Type        string           `json:"type"`
	Position    uint64           `json:"position"`
	Time        time.Time        `json:"time"`
	Facts       int              `json:"facts"`
	StateHash   string           `json:"state_hash"`
	Agreed      int              `json:"hashes_agreed"`
	Passed      int              `json:"hashes_of_later_versions"`
	Snapshots   int              `json:"snapshots_agreed"`
	Copies      int              `json:"copies_agreed"`
	Later       map[string]int   `json:"unknown_facts"`
	Points      []pointJSON      `json:"points"`
	Jobs        []jobJSON        `json:"jobs"`
	Rollbacks   []rollbackJSON   `json:"rollbacks_accepted"`
	Differences []differenceJSON `json:"differences"`
	More        int              `json:"more_differences"`
}

type pointJSON struct {
	Point       id.Point   `json:"id"`
	Guest       id.Guest   `json:"guest"`
	GuestName   string     `json:"guest_name"`
	Time        time.Time  `json:"time"`
	Job         id.Job     `json:"job"`
	Position    uint64     `json:"position"`
	Consistency string     `json:"consistency"`
	Scan        string     `json:"scan"`
	DiskBytes   int64      `json:"disk_bytes"`
	StoredBytes int64      `json:"stored_bytes"`
	Disks       []diskJSON `json:"disks"`
	Unprotected []string   `json:"unprotected"`
}

type diskJSON struct {
	Disk   id.Disk `json:"disk"`
	Key    string  `json:"key"`
	Format string  `json:"format"`
	Size   int64   `json:"size"`
	Tables int     `json:"tables"`
	Root   string  `json:"root"`
}

type jobJSON struct {
	Job      id.Job     `json:"job"`
	Verb     string     `json:"verb"`
	By       string     `json:"by"`
	Host     string     `json:"host"`
	Began    time.Time  `json:"began"`
	Position uint64     `json:"position"`
	Outcome  string     `json:"outcome"`
	Points   []id.Point `json:"points"`
	Packs    uint64     `json:"packs"`
	Bytes    int64      `json:"pack_bytes"`
}

type rollbackJSON struct {
	Position uint64    `json:"position"`
	Time     time.Time `json:"time"`
	events.RollbackAccepted
}

type differenceJSON struct {
	Position uint64 `json:"position"`
	Object   string `json:"object"`
	Row      string `json:"row"`
	Field    string `json:"field"`
	Ledger   string `json:"ledger"` // what the facts add up to
	Says     string `json:"says"`   // what the object says
	Cause    string `json:"cause"`  // it could not be read
}

// chosen are the points and jobs that are shown: all, or one job and its points.
func chosen(r *replay.Result) (points []*catalog.Point, jobs []*catalog.Job) {
	for _, p := range r.State.Listed() {
		if r.Job.IsZero() || p.Job == r.Job {
			points = append(points, p)
		}
	}
	for _, j := range r.State.JobList() {
		if r.Job.IsZero() || j.ID == r.Job {
			jobs = append(jobs, j)
		}
	}
	return points, jobs
}

func outcome(j *catalog.Job) string {
	switch {
	case j.Finished != nil:
		return j.Finished.Outcome
	case j.Fenced:
		return "fenced"
	}
	return "unfinished"
}

func momentOf(r *replay.Result) momentJSON {
	out := momentJSON{
		Type: "state", Position: r.Position, Time: r.Time, Facts: r.Facts, StateHash: r.State.Hash().String(), Agreed: r.Agreed, Passed: r.Passed,
		Snapshots: r.Snapshots, Copies: r.Copies, Later: r.Later, Points: []pointJSON{}, Jobs: []jobJSON{}, Rollbacks: []rollbackJSON{}, Differences: []differenceJSON{}, More: r.More,
	}
	for _, rec := range r.Rollbacks {
		out.Rollbacks = append(out.Rollbacks, rollbackJSON{rec.Position, rec.Time, rec.Fact.(events.RollbackAccepted)})
	}
	points, jobs := chosen(r)
	for _, p := range points {
		j := pointJSON{p.Point, p.Guest, p.GuestName, p.Time.Time(), p.Job, p.Position, p.Consistency, p.Scan, p.DiskBytes, p.StoredBytes, []diskJSON{}, []string{}}
		for _, d := range p.Disks {
			j.Disks = append(j.Disks, diskJSON{d.Disk, d.Key, d.Format, d.Size, len(d.Extents), d.Root.String()})
		}
		for _, u := range p.Unprotected {
			j.Unprotected = append(j.Unprotected, u.Key)
		}
		out.Points = append(out.Points, j)
	}
	for _, j := range jobs {
		out.Jobs = append(out.Jobs, jobJSON{j.ID, j.Started.Verb, j.Started.By, j.Started.Host, j.StartedAt, j.Position, outcome(j),
			append([]id.Point{}, j.Points...), j.PackCount, j.PackBytes})
	}
	for _, d := range r.Differences {
		j := differenceJSON{Position: d.Position, Object: d.Object, Row: d.Row, Field: d.Field, Ledger: d.A, Says: d.B}
		if d.Err != nil {
			j.Cause = d.Err.Error()
		}
		out.Differences = append(out.Differences, j)
	}
	return out
}

func (a verb) printMoment(r *replay.Result) error {
	points, jobs := chosen(r)
	fmt.Fprintf(a.Stdout, "the vault after position %d, %s: %d points, %d jobs, %d packs; state %s\n\n", r.Position, r.Time.Local().Format(time.DateTime+" MST"),
		len(r.State.Listed()), len(r.State.Jobs), len(r.State.Packs), r.State.Hash())
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for n, c := range cells {
			cells[n] = session.Plain(c)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	row("POINT", "GUEST", "TIME", "CONSISTENCY", "SCAN", "JOB", "CONTAINED")
	for _, p := range points {
		row(id.Short(p.Point), p.GuestName, p.Time.Time().Local().Format(time.DateTime), p.Consistency, p.Scan, id.Short(p.Job), contained(p.PointCommitted))
	}
	row("")
	row("JOB", "VERB", "BY", "HOST", "BEGAN", "OUTCOME", "STORED")
	for _, j := range jobs {
		row(j.ID.String(), j.Started.Verb, j.Started.By, j.Started.Host, j.StartedAt.Local().Format(time.DateTime), outcome(j),
			fmt.Sprintf("%d points, %d packs of %s", len(j.Points), j.PackCount, session.Size(j.PackBytes)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, kind := range laterKinds(r.Later) {
		a.Note("millrace: %s", kind)
	}
	fmt.Fprintf(a.Stdout, "\n%d facts folded; reproduced: %d hashes of the state, %d snapshots, %d copies\n", r.Facts, r.Agreed, r.Snapshots, r.Copies)
	if r.Passed > 0 {
		fmt.Fprintf(a.Stdout, "%d hashes are of a later version of the state, and were passed over\n", r.Passed)
	}
	for _, rec := range r.Rollbacks {
		f := rec.Fact.(events.RollbackAccepted)
		fmt.Fprintf(a.Stdout, "position %d: %s on %s went on from segment %d, though %s had seen segment %d (size %d)\n", rec.Position,
			session.Plain(f.By), session.Plain(f.Host), f.Seq, session.Plain(f.SeenBy), f.SeenSeq, f.SeenSize)
	}
	for _, d := range r.Differences {
		fmt.Fprintf(a.Stdout, "DIFFERS: %s\n", session.Plain(d.String()))
	}
	if r.More > 0 {
		fmt.Fprintf(a.Stdout, "and %d differences more\n", r.More)
	}
	return nil
}

// contained says what a point contained.
func contained(p events.PointCommitted) string {
	var disks []string
	for _, d := range p.Disks {
		disks = append(disks, fmt.Sprintf("%s %s", d.Key, session.Size(d.Size)))
	}
	if len(p.Unprotected) > 0 {
		disks = append(disks, fmt.Sprintf("without %d", len(p.Unprotected)))
	}
	return strings.Join(disks, ", ")
}
