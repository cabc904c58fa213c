package runs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/stages/rundirect"
)

// verb gives this package's functions the App.
type verb struct{ *session.App }

// Command is run with its verbs.
func Command(app *session.App) *cobra.Command {
	a := verb{app}
	c := &cobra.Command{
		Use:   "run",
		Short: "Run guests straight from their backups",
		Long: `Run Direct: a guest starts from a point in seconds, without a restore. It reads from the
vault what it needs and writes to an overlay in the state folder; the backup never changes.

The command can end: the guest goes on, supervised by a process of its own. After a crash or a
reboot, millrace run resume goes on with all that the guest has flushed.`,
	}
	c.AddCommand(a.start(), a.list(), a.resume(), a.finalize(), a.stop(), a.superviseCommand())
	return c
}

type startOptions struct {
	host     string
	name     string
	isolated bool
	memory   string
	ram      string
	cpus     int
}

func (a verb) start() *cobra.Command {
	var o startOptions
	c := &cobra.Command{
		Use:   "start POINT",
		Short: "Start a guest from a point, or serve its disks",
		Long: `Start the guest of a point. With --host qemu: it runs in QEMU on this machine, with what the
point keeps of its configuration. Without --host its disks are served over NBD, on the
socket that is printed, for whatever can use them.

The guest that was backed up is not touched, whether it runs or not.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.startRun(c.Context(), args[0], o) },
	}
	c.Flags().StringVar(&o.host, "host", "", "where the guest runs: qemu: (this machine); empty: its disks are served")
	c.Flags().StringVar(&o.name, "name", "", "name under which it runs (default: the guest's, with -run)")
	c.Flags().BoolVar(&o.isolated, "isolated", false, "network cards lead nowhere")
	c.Flags().StringVar(&o.memory, "memory", "", "memory for what is read from the vault, such as 256MiB (default 128MiB)")
	c.Flags().StringVar(&o.ram, "guest-memory", "", "memory of the guest (default: as it had)")
	c.Flags().IntVar(&o.cpus, "guest-cpus", 0, "processors of the guest (default: as it had)")
	return c
}

// about is what is said of a run.
type about struct {
	Type      string   `json:"type,omitempty"`
	Run       id.Job   `json:"run"`
	Name      string   `json:"name"`
	Point     id.Point `json:"point"`
	GuestName string   `json:"guest_name"`
	State     string   `json:"state"` // running, paused, ..., off (the guest is), serving (disks alone), ended (nobody supervises it)
	Isolated  bool     `json:"isolated"`
	Started   string   `json:"started"`
	Exports   []export `json:"exports"`
	QMP       string   `json:"qmp,omitempty"`
	Console   string   `json:"console,omitempty"` // socket into the guest's serial port
	Serial    string   `json:"serial,omitempty"`  // what came out of it
	PID       int      `json:"pid,omitempty"`     // of QEMU
	Files     []string `json:"files,omitempty"`   // of a run that is final: its disks
	rundirect.Counts
	Notes    []string `json:"notes,omitempty"`
	Duration float64  `json:"duration_s,omitempty"` // until the guest ran, or clients could connect
}

type export struct {
	Key  string `json:"key"`
	URI  string `json:"uri"`
	Size int64  `json:"size"`
}

func describe(ctx context.Context, r *runs.Run) about {
	out := about{Run: r.ID, Name: r.Name, Point: r.Point, GuestName: r.GuestName, Isolated: r.Isolated, Started: r.Started.Format(time.RFC3339), Counts: r.Counts(), State: "serving"}
	for n, d := range r.Disks {
		out.Exports = append(out.Exports, export{d.Key, "nbd+unix:///" + rundirect.ExportName(n) + "?socket=" + r.Socket(), rundirect.Size(d)})
	}
	if r.Host != "" {
		g := r.Machine()
		out.QMP, out.Console, out.Serial, out.PID = g.QMP(), g.Console(), g.Serial(), g.PID(ctx)
		status, err := g.Status(ctx)
		switch {
		case errors.Is(err, launch.ErrGone):
			out.State = "off"
		case err != nil:
			out.State = "unknown"
		default:
			out.State = status
		}
	}
	if r.Homes != nil {
		out.State, out.Exports, out.Files = out.State+", at home", nil, r.Homes
		return out
	}
	if !r.Running() {
		if out.State == "off" || r.Host == "" {
			out.State = "ended"
		} else {
			out.State += ", without its disks"
		}
	}
	return out
}

func (a verb) startRun(ctx context.Context, name string, o startOptions) error {
	begun := a.Now()
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	r, notes, err := a.begin(ctx, v, name, o)
	if err != nil {
		return err
	}
	a.print(ctx, r, notes, a.Now().Sub(begun))
	return nil
}

// begin starts a run and returns when its guest runs, or its disks are served.
func (a verb) begin(ctx context.Context, v *session.Vault, name string, o startOptions) (_ *runs.Run, notes []string, err error) {
	if o.host != "" && o.host != "qemu:" {
		return nil, nil, fault.Usage("--host %s: there is qemu: (QEMU on this machine); without --host the disks are served", o.host)
	}
	memory, err := size("--memory", o.memory)
	if err != nil {
		return nil, nil, err
	}
	ram, err := size("--guest-memory", o.ram)
	if err != nil {
		return nil, nil, err
	}
	found, err := v.FindPoint(ctx, name, session.Past{})
	if err != nil {
		return nil, nil, err
	}
	run := id.NewJob()
	if err := a.PinRun(ctx, v, run, found.Point, false); err != nil {
		return nil, nil, fault.At("pin point", id.Short(found.Point), err)
	}
	// What was said before the pin counts: it may have been forgotten meanwhile.
	point := found.Point
	if found, err = v.FindPoint(ctx, point.String(), session.Past{}); err != nil {
		return nil, nil, errors.Join(err, a.PinRun(ctx, v, run, point, true))
	}
	r := &runs.Run{
		ID: run, Vault: v.Location, VaultID: v.ID, Point: found.Point, PointTime: found.Time.Time(), Guest: found.Guest, GuestName: found.GuestName, Name: o.name,
		Host: strings.TrimSuffix(o.host, ":"), Isolated: o.isolated, Config: found.Config, Disks: found.MachineDisks(), Started: a.Now(),
		Memory: memory, RAM: ram, CPUs: o.cpus, Traces: v.Cache("boots"),
	}
	if r.Name == "" {
		r.Name = found.GuestName + "-run"
	}
	state, err := filepath.Abs(a.Settings.State)
	if err == nil {
		err = runs.Create(state, r)
	}
	if err != nil {
		return nil, nil, errors.Join(fault.At("start run of point", id.Short(found.Point), err), a.PinRun(ctx, v, run, found.Point, true))
	}
	fact := events.RunStarted{Run: run, Point: r.Point, Guest: r.Guest, Name: r.Name, Hypervisor: r.Host, Serving: "nbd", Overlay: r.Folder(), Network: "as before"}
	if fact.Host, _ = os.Hostname(); r.Isolated {
		fact.Network = "isolated"
	}
	if _, err := a.Record(ctx, v, fact); err != nil {
		return nil, nil, errors.Join(err, a.discard(ctx, v, r, "it could not be recorded"))
	}
	grant, err := readingKeys(v)
	if err == nil {
		notes, err = a.supervised(ctx, grant, r)
	}
	if err != nil {
		return nil, nil, errors.Join(fault.At("start run of point", id.Short(r.Point), err), a.discard(context.WithoutCancel(ctx), v, r, "it did not start"))
	}
	return r, notes, nil
}

func (a verb) print(ctx context.Context, r *runs.Run, notes []string, took time.Duration) {
	for _, n := range notes {
		a.Note("millrace: %s", n)
	}
	d := describe(ctx, r)
	if a.Settings.JSON {
		d.Type, d.Notes, d.Duration = "summary", notes, took.Seconds()
		a.PrintJSON(d)
		return
	}
	fmt.Fprintf(a.Stdout, "run %s  %s from point %s: %s after %s\n", id.Short(r.ID), session.Plain(r.Name), id.Short(r.Point), d.State, took.Round(time.Millisecond))
	for _, e := range d.Exports {
		fmt.Fprintf(a.Stdout, "  disk %s  %s  %s\n", session.Plain(e.Key), session.Size(e.Size), e.URI)
	}
	if d.QMP != "" {
		fmt.Fprintf(a.Stdout, "  QMP %s\n  serial port %s, its log %s\n", d.QMP, d.Console, d.Serial)
	}
}

func (a verb) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the runs of this machine", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, bad := runs.List(a.Settings.State)
			out := []about{}
			for _, r := range all {
				out = append(out, describe(c.Context(), r))
			}
			if a.Settings.JSON {
				a.PrintJSON(out)
				return fault.At("list runs in", a.Settings.State, bad)
			}
			w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "RUN\tNAME\tPOINT\tSTATE\tSINCE\tREAD\tFETCHED\tWRITTEN")
			for _, r := range out {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", id.Short(r.Run), session.Plain(r.Name), id.Short(r.Point), r.State, r.Started,
					session.Size(r.Read), session.Size(r.Fetched), session.Size(r.Overlay))
			}
			return errors.Join(w.Flush(), fault.At("list runs in", a.Settings.State, bad))
		},
	}
}

func (a verb) resume() *cobra.Command {
	return &cobra.Command{
		Use: "resume RUN", Short: "Go on with a run after a crash or a reboot", Args: cobra.ExactArgs(1),
		Long: `Go on with a run whose supervisor has ended: its disks are served again, with all that
the guest has flushed. A guest that still runs goes on where it waits; one that does not is
started, also where the run is supervised.`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, begun := c.Context(), a.Now()
			r, err := runs.Find(a.Settings.State, args[0])
			if err != nil {
				return fault.At("find run", args[0], err)
			}
			if r.Running() {
				if r.Host != "" {
					_, err = r.Machine().Status(ctx)
				}
				if !errors.Is(err, launch.ErrGone) {
					return fault.At("resume run", id.Short(r.ID), runs.ErrRunning)
				}
				late, cancel := context.WithTimeout(ctx, time.Minute) // its guest has ended: both begin anew
				defer cancel()
				if err := runs.End(late, r); err != nil {
					return fault.At("resume run", id.Short(r.ID), err)
				}
			}
			if err := r.Unkeep(); err != nil {
				return fault.At("resume run", id.Short(r.ID), err)
			}
			var grant []byte
			if r.Homes == nil { // else it needs no vault
				v, err := a.vaultOf(ctx, r)
				if err != nil {
					return err
				}
				if grant, err = readingKeys(v); err != nil {
					return err
				}
			}
			notes, err := a.supervised(ctx, grant, r)
			if err != nil {
				return fault.At("resume run", id.Short(r.ID), err)
			}
			a.print(ctx, r, notes, a.Now().Sub(begun))
			return nil
		},
	}
}

// vaultOf opens the vault of a run, which the settings may leave out.
func (a verb) vaultOf(ctx context.Context, r *runs.Run) (*session.Vault, error) {
	if _, err := a.Settings.VaultLocation(); err != nil {
		a.Settings.Vault = r.Vault
	}
	v, err := a.OpenVault(ctx)
	if err == nil && v.ID != r.VaultID {
		err = fault.Usage("run %s is of vault %s at %s, not of %s", id.Short(r.ID), r.VaultID, r.Vault, v.ID)
	}
	return v, err
}

func (a verb) stop() *cobra.Command {
	var discard, keep bool
	var grace time.Duration
	c := &cobra.Command{
		Use: "stop RUN --discard|--keep", Short: "End a run, and throw away or keep what its guest wrote", Args: cobra.ExactArgs(1),
		Long: `End a run: its guest is switched off. With --discard all that it has written is thrown away.
With --keep it becomes a new point of the guest: only what was written is read and stored.
Unless --grace says otherwise, the guest is asked to shut down then and has two minutes for
it; with --grace 0 it is switched off, and the point is as after a power cut. Interrupted,
the run is there still, and the command can be given again.

Of a run that is final only the guest is switched off; its disks stay where they are.`,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			r, err := runs.Find(a.Settings.State, args[0])
			if err != nil {
				return fault.At("find run", args[0], err)
			}
			if r.Homes != nil {
				return a.leave(ctx, r, grace)
			}
			if discard == keep {
				return fault.Usage("run stop throws away what the guest has written with --discard, or makes it a point with --keep: say which")
			}
			v, err := a.vaultOf(ctx, r)
			if err != nil {
				return err
			}
			if keep {
				if !c.Flags().Changed("grace") {
					grace = 2 * time.Minute
				}
				return a.keep(ctx, v, r, grace)
			}
			if r.Host != "" {
				if err := r.Machine().Stop(ctx, grace); err != nil {
					return fault.At("stop run", id.Short(r.ID), err)
				}
			}
			written := r.Counts().Overlay
			if err := a.discard(ctx, v, r, "asked for"); err != nil {
				return err
			}
			if a.Settings.JSON {
				a.PrintJSON(struct {
					Type    string `json:"type"`
					Run     id.Job `json:"run"`
					Overlay int64  `json:"overlay_bytes"`
				}{"summary", r.ID, written})
				return nil
			}
			fmt.Fprintf(a.Stdout, "run %s  %s ended; %s that its guest had written are thrown away\n", id.Short(r.ID), session.Plain(r.Name), session.Size(written))
			return nil
		},
	}
	c.Flags().BoolVar(&discard, "discard", false, "throw away what the guest has written")
	c.Flags().BoolVar(&keep, "keep", false, "make a point of what the guest has written")
	c.Flags().DurationVar(&grace, "grace", 0, "how long the guest may take to shut down before it is switched off")
	return c
}

// leave ends the guest of a run that is final, and forgets the run.
func (a verb) leave(ctx context.Context, r *runs.Run, grace time.Duration) error {
	err := r.Machine().Stop(ctx, grace)
	if err == nil {
		err = runs.Remove(r)
	}
	if err != nil {
		return fault.At("stop run", id.Short(r.ID), err)
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type  string   `json:"type"`
			Run   id.Job   `json:"run"`
			Files []string `json:"files"`
		}{"summary", r.ID, r.Homes})
		return nil
	}
	fmt.Fprintf(a.Stdout, "run %s  %s ended; its disks are %s\n", id.Short(r.ID), session.Plain(r.Name), session.Plain(strings.Join(r.Homes, ", ")))
	return nil
}

// discard ends what is left of a run, says so, and deletes what its guest wrote: in this
// order, so that whatever a crash leaves can be stopped again.
func (a verb) discard(ctx context.Context, v *session.Vault, r *runs.Run, why string) error {
	var err error
	if r.Host != "" {
		err = r.Machine().Stop(ctx, 0)
	}
	if err != nil {
		return fault.At("end run", id.Short(r.ID), err)
	}
	return a.forget(ctx, v, r, events.RunDiscarded{Run: r.ID, OverlayBytes: r.Counts().Overlay, Why: why})
}

// forget ends the serving of a run whose guest is off, says by a fact what came of it, and
// removes it.
func (a verb) forget(ctx context.Context, v *session.Vault, r *runs.Run, fact events.Fact) error {
	late, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := runs.End(late, r); err != nil {
		return fault.At("end run", id.Short(r.ID), err)
	}
	if _, err := a.Record(ctx, v, fact); err != nil {
		return err
	}
	if err := a.PinRun(ctx, v, r.ID, r.Point, true); err != nil {
		return fault.At("let go of point", id.Short(r.Point), err)
	}
	return fault.At("remove run", id.Short(r.ID), errors.Join(r.ForgetHomes(), runs.Remove(r)))
}
