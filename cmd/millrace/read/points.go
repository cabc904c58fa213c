package read

import (
	"context"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/id"
)

// Points is the verb points.
func Points(app *session.App) *cobra.Command {
	a := verb{app}
	var past session.Past
	c := &cobra.Command{
		Use:   "points [GUEST]",
		Short: "List recovery points",
		Long: `List recovery points in the order in which they were made, whatever clocks said: of
all guests, or of the one with this name or id prefix.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			guest := ""
			if len(args) == 1 {
				guest = args[0]
			}
			return a.points(c.Context(), guest, past)
		},
	}
	past.AddFlag(c)
	return c
}

// verb gives this package's functions the App.
type verb struct{ *session.App }

// pointJSON is a point as scripts see it.
type pointJSON struct {
	ID          id.Point          `json:"id"`
	Guest       id.Guest          `json:"guest"`
	GuestName   string            `json:"guest_name"`
	Time        time.Time         `json:"time"`
	Consistency string            `json:"consistency"`
	Scan        string            `json:"scan"`
	ScanReason  string            `json:"scan_reason"`
	DiskBytes   int64             `json:"disk_bytes"`
	StoredBytes int64             `json:"stored_bytes"`
	Unprotected []unprotectedJSON `json:"unprotected"`
	Pinned      bool              `json:"pinned"`
	Damaged     bool              `json:"damaged"`
}

// unprotectedJSON is a disk that a point does not hold, and why.
type unprotectedJSON struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

func jsonOf(p session.Listed) pointJSON {
	j := pointJSON{ID: p.Point, Guest: p.Guest, GuestName: p.GuestName, Time: p.Time.Time().UTC(), Consistency: p.Consistency, Scan: p.Scan,
		ScanReason: p.ScanReason, DiskBytes: p.DiskBytes, StoredBytes: p.StoredBytes, Unprotected: []unprotectedJSON{}, Pinned: p.Pinned, Damaged: p.Damaged}
	for _, u := range p.Unprotected {
		j.Unprotected = append(j.Unprotected, unprotectedJSON{u.Key, u.Reason})
	}
	return j
}

func (a verb) points(ctx context.Context, guest string, past session.Past) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	points, err := v.Points(ctx, guest, past)
	if err != nil {
		return err
	}
	if a.Settings.JSON {
		all := []pointJSON{}
		for _, p := range points {
			all = append(all, jsonOf(p))
		}
		a.PrintJSON(all)
		return nil
	}
	if len(points) == 0 {
		a.Note("no points yet")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	printRow(w, "POINT", "GUEST", "TIME", "CONSISTENCY", "SCAN", "DISKS", "STORED", "NOTES")
	for _, p := range points {
		printRow(w, id.Short(p.Point), p.GuestName, p.Time.Time().Local().Format(time.DateTime),
			p.Consistency, p.Scan, session.Size(p.DiskBytes), session.Size(p.StoredBytes), notes(p))
	}
	return w.Flush()
}

// notes are what a reader of the list should not miss.
func notes(p session.Listed) string {
	var text string
	add := func(s string) {
		if text != "" {
			text += "; "
		}
		text += s
	}
	if p.Damaged {
		add("DAMAGED")
	}
	for _, u := range p.Unprotected {
		add("without " + u.Key + ": " + u.Reason)
	}
	if p.Pinned {
		add("pinned")
	}
	if p.ScanReason != "" {
		add(p.ScanReason)
	}
	return text
}
