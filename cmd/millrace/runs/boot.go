package runs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// BootOptions say when a guest has come up, and what is kept of it.
type BootOptions struct {
	wait   time.Duration
	serial string
	keep   string
	ram    string
}

// AddFlags adds the flags of verify --boot.
func (o *BootOptions) AddFlags(c *cobra.Command) {
	c.Flags().DurationVar(&o.wait, "boot-wait", 5*time.Minute, "how long a guest may take to come up")
	c.Flags().StringVar(&o.serial, "boot-serial", `login: ?$|GUEST-READY`, "what it prints on its serial port then (a regular expression)")
	c.Flags().StringVar(&o.keep, "boot-keep", "", "folder for a picture of its screen and what it wrote to its serial port")
	c.Flags().StringVar(&o.ram, "boot-memory", "", "memory of the guest (default: as it had)")
}

// booted is a line of what verify --boot found.
type booted struct {
	Type     string   `json:"type"`
	Point    id.Point `json:"point"`
	Mode     string   `json:"mode"`
	Guest    string   `json:"guest_name"`
	Up       bool     `json:"up"`
	By       string   `json:"by"` // agent, serial: LINE
	Cause    string   `json:"cause"`
	Duration float64  `json:"duration_s"`
	Read     int64    `json:"read_bytes"`
	Fetched  int64    `json:"fetched_bytes"`
	Screen   string   `json:"screen"`
	Serial   string   `json:"serial"`
}

// VerifyBoot boots the guests of these points, one after the other, all if none is named.
func VerifyBoot(ctx context.Context, app *session.App, names []string, o BootOptions) error {
	a := verb{app}
	pattern, err := regexp.Compile("(?m)" + o.serial)
	if err != nil {
		return fault.Usage("--boot-serial: %w", err)
	}
	if o.keep != "" {
		if o.keep, err = filepath.Abs(o.keep); err == nil {
			err = dir.MakeAll(dir.OS(), o.keep)
		}
		if err != nil {
			return fault.At("keep what guests show in", o.keep, err)
		}
	}
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	points, err := v.ChoosePoints(ctx, names)
	if err != nil {
		return err
	}
	var bad []error
	for _, p := range points {
		b, err := a.boot(ctx, v, p, o, pattern)
		if err != nil {
			return errors.Join(append(bad, err)...)
		}
		if !b.Up {
			bad = append(bad, &fault.Fault{Code: "boot-failed", Op: "boot point", Object: id.Short(p.Point), Err: errors.New(b.Cause)})
		}
		if a.Settings.JSON {
			a.PrintJSON(b)
			continue
		}
		state := "up (" + b.By + ")"
		if !b.Up {
			state = "NOT UP: " + b.Cause
		}
		fmt.Fprintf(a.Stdout, "%s  %s  %s: %s after %.1f s; it read %s, for which %s were fetched\n", id.Short(p.Point), session.Plain(p.GuestName),
			p.Time.Time().Format(time.RFC3339), session.Plain(state), b.Duration, session.Size(b.Read), session.Size(b.Fetched))
	}
	return errors.Join(bad...)
}

// boot starts a guest, waits for it, records what came of it and throws it away. An error is of
// what could not be tried, or not be cleared away.
func (a verb) boot(ctx context.Context, v *session.Vault, p events.PointCommitted, o BootOptions, pattern *regexp.Regexp) (b booted, err error) {
	begun := a.Now()
	b = booted{Type: "status", Point: p.Point, Mode: "boot", Guest: p.GuestName}
	r, _, err := a.begin(ctx, v, p.Point.String(), startOptions{host: "qemu:", name: "verify-" + id.Short(p.Point), isolated: true, ram: o.ram})
	if err != nil {
		return b, err
	}
	wait, cancel := context.WithTimeout(ctx, o.wait)
	by, waitErr := r.Machine().Await(wait, launch.Ready{Serial: pattern, Agent: true})
	cancel()
	b.By, b.Up, b.Duration = by, waitErr == nil, a.Now().Sub(begun).Seconds()
	if waitErr != nil {
		b.Cause = waitErr.Error()
	}
	if o.keep != "" {
		b.Screen, b.Serial = a.picture(ctx, r, filepath.Join(o.keep, p.Point.String()))
	}
	if ctx.Err() == nil {
		time.Sleep(2100 * time.Millisecond) // until the stage has told once more what it served
	}
	counts := r.Counts()
	b.Read, b.Fetched = counts.Read, counts.Fetched
	late, end := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer end()
	if err := a.discard(late, v, r, "verified"); err != nil {
		return b, err
	}
	if ctx.Err() != nil {
		return b, context.Cause(ctx)
	}
	_, err = a.Record(ctx, v, events.PointVerified{Point: p.Point, Guest: p.Guest, Mode: "boot", Bytes: b.Fetched, DurationNS: int64(b.Duration * 1e9), Cause: b.Cause})
	return b, err
}

// picture keeps what a guest shows; what cannot be kept is said.
func (a verb) picture(ctx context.Context, r *runs.Run, name string) (screen, serial string) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	screen, serial = name+".png", name+".serial.log"
	if err := r.Machine().Screenshot(late, screen); err != nil {
		a.Note("millrace: the guest's screen: %v", err)
		screen = ""
	}
	text, err := os.ReadFile(r.Machine().Serial())
	if err == nil {
		err = os.WriteFile(serial, text, 0o600)
	}
	if err != nil {
		a.Note("millrace: what the guest wrote to its serial port: %v", err)
		serial = ""
	}
	return screen, serial
}
