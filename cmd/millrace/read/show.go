package read

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/id"
)

// Show is the verb show.
func Show(app *session.App) *cobra.Command {
	a := verb{app}
	var past session.Past
	c := &cobra.Command{
		Use:   "show POINT",
		Short: "Show a point: its guest's configuration and disks",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.show(c.Context(), args[0], past)
		},
	}
	past.AddFlag(c)
	return c
}

// diskJSON is one disk of a point. Number is what restore --disk takes.
type diskJSON struct {
	Number  int         `json:"number"`
	Disk    id.Disk     `json:"disk"`
	Key     string      `json:"key"`
	Format  string      `json:"format"`
	Variant string      `json:"variant"`
	Size    int64       `json:"size"`
	Sector  int         `json:"sector"`
	Layers  int         `json:"layers"` // tables that its map is made of, newest on top
	Root    events.Hash `json:"root"`
}

// fileJSON is a file of an exported machine's tree.
type fileJSON struct {
	Disk   id.Disk     `json:"disk"`
	File   string      `json:"file"` // its path in the tree
	Size   int64       `json:"size"`
	Layers int         `json:"layers"`
	Root   events.Hash `json:"root"`
}

func (a verb) show(ctx context.Context, name string, past session.Past) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	p, err := v.FindPoint(ctx, name, past)
	if err != nil {
		return err
	}
	disks, files := []diskJSON{}, []fileJSON{}
	for _, d := range p.Disks {
		if d.Carried {
			files = append(files, fileJSON{d.Disk, d.File, d.Size, len(d.Extents), d.Root})
		}
	}
	for n, d := range p.MachineDisks() {
		disks = append(disks, diskJSON{n, d.Disk, d.Key, d.Format, d.Variant, d.Size, d.Sector, len(d.Extents), d.Root})
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			pointJSON
			Driver   string     `json:"driver"`
			Source   string     `json:"source"`
			Set      string     `json:"set"`
			Parent   string     `json:"parent"` // empty: there is none
			Position uint64     `json:"position"`
			Config   string     `json:"config"`
			Disks    []diskJSON `json:"disks"`
			Files    []fileJSON `json:"files"` // of an exported machine's tree, kept byte for byte
			// What config says of an exported machine; config has the same as text.
			Machine *export.Configuration `json:"machine,omitempty"`
		}{jsonOf(p), p.Driver, p.Source, p.Set, parentOf(p), p.Position, configText(p.Config), disks, files, exported(p.Config)})
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			printRow(w, name, value)
		}
	}
	row("point", p.Point.String())
	row("guest", p.GuestName+" ("+p.Guest.String()+")")
	row("time", p.Time.Time().Local().Format(time.RFC3339))
	row("source", p.Source)
	row("driver", p.Driver)
	x := exported(p.Config)
	showMachine(row, x)
	row("set", p.Set)
	row("consistency", p.Consistency)
	row("scan", p.Scan)
	row("why", p.ScanReason)
	row("parent", parentOf(p))
	what := "disks"
	if len(files) > 0 {
		what = "disks and files"
	}
	row("size", fmt.Sprintf("%s of %s, %s read, %s new, %s stored", session.Size(p.DiskBytes), what, session.Size(p.ReadBytes), session.Size(p.NewBytes), session.Size(p.StoredBytes)))
	row("position", fmt.Sprint(p.Position))
	for _, d := range disks {
		row(fmt.Sprintf("disk %d", d.Number), fmt.Sprintf("%s: %s, %s, sectors of %d", d.Key, session.Size(d.Size), strings.TrimSpace(d.Format+" "+d.Variant), d.Sector))
	}
	a.showTree(row, p, files)
	for _, u := range p.Unprotected {
		row("not in it", u.Key+": "+u.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if text := configText(p.Config); text != "" && x == nil { // else all of it was told
		fmt.Fprintf(a.Stdout, "\n%s\n", session.PlainLines(text))
	}
	return nil
}

// showMachine prints what is known of an exported machine.
func showMachine(row func(name, value string), x *export.Configuration) {
	if x == nil || x.Machine == nil {
		return
	}
	row("machine", machineText(x.Machine))
	for _, d := range x.Machine.Disks {
		row("at "+d.Slot(), cmp.Or(d.Path, d.Type))
	}
	for _, c := range x.Checkpoints {
		row("checkpoint", c.Name+checkpointDisks(c))
	}
	row("described by", x.File)
}

// showTree prints the files of an exported machine's tree, and what is wrong with it.
func (a verb) showTree(row func(name, value string), p session.Listed, files []fileJSON) {
	var bytes int64
	for _, f := range files {
		bytes += f.Size
	}
	if len(files) > 0 {
		row("tree", fmt.Sprintf("%d files kept with it, %s; restore --with-checkpoints writes them back", len(files), session.Size(bytes)))
	}
	for _, f := range files {
		row("file", f.File+": "+session.Size(f.Size))
	}
	if x := exported(p.Config); x != nil {
		for _, d := range x.Defects {
			row("not whole", d.File+": "+d.Reason)
		}
		for _, r := range x.Remarks {
			row("remark", r)
		}
	}
}

// exported is what a configuration says of a machine that Hyper-V exported, or nil.
func exported(config []byte) *export.Configuration {
	c, err := export.ReadConfiguration(config)
	if err != nil {
		return nil
	}
	return &c
}

// checkpointDisks says what a checkpoint's disks are on.
func checkpointDisks(c export.Checkpoint) string {
	var on []string
	for _, d := range c.Disks {
		on = append(on, cmp.Or(d.Path[strings.LastIndexAny(d.Path, `\/`)+1:], d.Type))
	}
	if len(on) == 0 {
		return ""
	}
	return " (on " + strings.Join(on, ", ") + ")"
}

// machineText says in one line what a machine is; what its configuration does not
// say is left out.
func machineText(m *vmconfig.Machine) string {
	var out []string
	add := func(there bool, format string, args ...any) {
		if there {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	const mib, most = 1 << 20, 1 << 40 // sizes past most are nobody's memory
	add(m.Generation > 0, "generation %d", m.Generation)
	add(m.Version != "", "version %s", m.Version)
	add(m.Processors > 0, "%d processors", m.Processors)
	add(m.Memory > 0 && m.Memory < most, "%s of memory", session.Size(m.Memory*mib))
	add(m.Dynamic && m.MemoryMin > 0 && m.MemoryMin < most, "at least %s", session.Size(m.MemoryMin*mib))
	add(m.Dynamic && m.MemoryMax > 0 && m.MemoryMax < most, "at most %s", session.Size(m.MemoryMax*mib))
	add(m.SecureBoot, "secure boot")
	return strings.Join(out, ", ")
}

func parentOf(p session.Listed) string {
	if p.Parent.IsZero() {
		return ""
	}
	return p.Parent.String()
}

// configText is the guest's configuration if it is text; what is not would only
// spoil a terminal.
func configText(b []byte) string {
	if !utf8.Valid(b) {
		return fmt.Sprintf("(%d bytes that are not text)", len(b))
	}
	return string(b)
}
