package read

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/hypervisor/folder/export"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/restore/salvage"
	"github.com/millrace-backup/millrace/vault"
)

// Recover is the verb recover.
func Recover(app *session.App) *cobra.Command {
	a := verb{app}
	var to string
	var points []string
	c := &cobra.Command{
		Use:   "recover [VAULT]",
		Short: "Say what can be read when parts of the ledger are gone, and read it",
		Long: `Say what can be read when parts of the ledger, or all of it, are gone or damaged,
and with --to write it.

Only the password is needed. Points are looked for in every segment of the ledger
that still opens, in catalog snapshots and in copies of points; disks that no whole
point explains are put together from what packs say of their chunks, as far as that
goes. Nothing is written to the vault or the state folder.

With --to each disk of the newest point of each guest, or of the points asked for,
becomes GUEST-POINT-DISK.raw in the folder if every byte of it was proven, else
GUEST-POINT-DISK.partial.raw with zeros where nothing could be read. Files of an
exported machine's tree come back under their own names in the folder GUEST-POINT.tree.
Loose disks become loose-GUEST-DISK.partial.raw.

Exit code 0: nothing is wrong. 4: damage was found, or a point that only a copy
has, or packs of jobs that the ledger does not know, or this machine remembers a
later state of the vault; what was written is what is listed.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			location := a.Settings.Vault
			if len(args) == 1 {
				location = args[0]
			}
			if location == "" {
				return fault.Usage("recover needs a vault")
			}
			if to == "" && len(points) > 0 {
				return fault.Usage("--point says what --to writes, and there is no --to")
			}
			return a.recover(c.Context(), location, to, points)
		},
	}
	c.Flags().StringVar(&to, "to", "", "folder to write images to")
	c.Flags().StringSliceVar(&points, "point", nil, "with --to: ids of points, or all, instead of the newest of each guest")
	return c
}

// foundJSON is one point that can be read, all or in part.
type foundJSON struct {
	Type      string          `json:"type"`
	Point     id.Point        `json:"point"`
	Guest     id.Guest        `json:"guest"`
	GuestName string          `json:"guest_name"`
	Time      time.Time       `json:"time"`
	From      string          `json:"from"` // ledger, or snapshot
	Disks     []foundDiskJSON `json:"disks"`
}

// foundDiskJSON is a disk of it. Exact is set by what was written with --to alone.
type foundDiskJSON struct {
	Disk     id.Disk  `json:"disk"`
	Key      string   `json:"key"`
	Size     int64    `json:"size"`
	Readable int64    `json:"readable_bytes"`
	State    string   `json:"state"` // whole, partial; after writing exact, partial
	Missing  []string `json:"missing"`
	Path     string   `json:"path,omitempty"`
}

type looseJSON struct {
	Type    string   `json:"type"`
	Guest   id.Guest `json:"guest"`
	Disk    id.Disk  `json:"disk"`
	Size    int64    `json:"least_size"`
	Covered int64    `json:"covered_bytes"`
	Packs   int      `json:"packs"`
	Path    string   `json:"path,omitempty"`
	// After writing: what could not be read.
	Lost   []looseLost `json:"lost,omitempty"`
	Damage []string    `json:"damage,omitempty"`
}

// looseLost is a place whose newest content cannot be read.
type looseLost struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

func (a verb) recover(ctx context.Context, location, to string, points []string) error {
	v, err := a.RescueVault(ctx, location)
	if err != nil {
		return err
	}
	bar := a.Progress("look through vault")
	r, err := salvage.Survey(ctx, v, func(string) { bar.At(0, 0) })
	bar.Done()
	if err != nil {
		return fault.At("look through vault", location, err)
	}
	newer := a.Newer(ctx, v)
	if newer != nil && !errors.Is(newer, ledger.ErrRollback) && !errors.Is(newer, ledger.ErrForked) {
		a.Note("millrace: %v", newer) // nothing is wrong with the vault, for all that is known
		newer = nil
	}
	if newer != nil {
		r.Damage = append([]error{newer}, r.Damage...)
	}
	chosen := map[id.Point]bool{}
	if to != "" {
		if err := os.MkdirAll(to, 0o700); err != nil {
			return fault.At("recover to", to, err)
		}
		if chosen, err = choose(r, points); err != nil {
			return err
		}
	}
	for _, err := range r.Damage {
		if a.Settings.JSON {
			a.PrintJSON(damageJSON{"damage", fault.ObjectOf(err), err.Error()})
		} else {
			fmt.Fprintf(a.Stdout, "damaged: %s\n", session.Plain(err.Error()))
		}
	}
	inexact := 0
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	if len(r.Points) > 0 && !a.Settings.JSON {
		printRow(table, "POINT", "GUEST", "TIME", "FOUND IN", "DISK", "SIZE", "STATE")
	}
	for _, f := range r.Points {
		j, err := a.recoverPoint(ctx, v, f, to, chosen[f.Point])
		if err != nil {
			return err
		}
		for _, d := range j.Disks {
			if d.State == "partial" {
				inexact++
			}
			if !a.Settings.JSON {
				printRow(table, id.Short(f.Point), f.GuestName, f.Time.Time().Local().Format(time.DateTime), f.From, d.Key, session.Size(d.Size), stateOf(d))
			}
		}
		if a.Settings.JSON {
			a.PrintJSON(j)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	lost, err := a.recoverLoose(ctx, v, r.Loose, to)
	if err != nil {
		return err
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type      string `json:"type"`
			Points    int    `json:"points"`
			Forgotten int    `json:"forgotten"`
			Partial   int    `json:"partial_disks"`
			Loose     int    `json:"loose_disks"`
			Damaged   int    `json:"damaged_objects"`
		}{"summary", len(r.Points), r.Forgotten, inexact, len(r.Loose), len(r.Damage)})
	} else {
		a.Note("%d points found, %d disks of them partial, %d loose disks, %d things of the vault damaged", len(r.Points), inexact, len(r.Loose), len(r.Damage))
	}
	return verdict(location, r, newer, inexact+lost)
}

// verdict is the error that recover ends with: nil if nothing is wrong. newer is what
// this machine remembers of a later state, if it does.
func verdict(location string, r salvage.Result, newer error, inexact int) error {
	if inexact == 0 && len(r.Damage) == 0 {
		return nil
	}
	cause := r.Err()
	if cause == nil {
		cause = fmt.Errorf("%d disks could not be read whole: %w", inexact, vault.ErrDamaged)
	}
	code := "damaged"
	if newer != nil && len(r.Damage) == 1 && inexact == 0 {
		code = fault.Of(newer).Code // rollback or forked, and nothing else
	}
	return &fault.Fault{Code: code, Op: "recover vault", Object: location, Err: cause,
		Remedy: "keep the vault as it is; recover --to DIR writes what can be read"}
}

// choose returns the points whose disks are written.
func choose(r salvage.Result, points []string) (map[id.Point]bool, error) {
	chosen := map[id.Point]bool{}
	if len(points) == 0 {
		for _, f := range r.Newest() {
			chosen[f.Point] = true
		}
	}
	for _, name := range points {
		n := 0
		for _, f := range r.Points {
			if name == "all" || len(name) >= 4 && len(name) <= 32 && f.Point.String()[:len(name)] == name {
				chosen[f.Point] = true
				n++
			}
		}
		if n == 0 || n > 1 && name != "all" {
			return nil, fault.Usage("--point %s names %d of the points found", name, n)
		}
	}
	return chosen, nil
}

func stateOf(d foundDiskJSON) string {
	text := d.State
	if d.State == "partial" {
		text = fmt.Sprintf("partial: %s of it (%.1f %%)", session.Size(d.Readable), 100*float64(d.Readable)/float64(max(d.Size, 1)))
	}
	for n, m := range d.Missing {
		if n == 3 {
			return text + fmt.Sprintf("; and %d more", len(d.Missing)-n)
		}
		text += "; " + m
	}
	return text
}

// recoverPoint describes a point, and writes its disks if it is chosen.
func (a verb) recoverPoint(ctx context.Context, v *vault.Vault, f salvage.Found, to string, write bool) (foundJSON, error) {
	j := foundJSON{"status", f.Point, f.Guest, f.GuestName, f.Time.Time().UTC(), f.From, []foundDiskJSON{}}
	for n, d := range f.Disks {
		disk := foundDiskJSON{Disk: d.Disk, Key: d.Key, Size: d.Size, Readable: f.Readable(n), State: "whole", Missing: []string{}}
		if !f.Whole(n) {
			disk.State = "partial"
		}
		for _, damage := range f.Damage {
			for _, r := range damage.Ranges {
				if r.Disk == d.Disk {
					disk.Missing = append(disk.Missing, damage.Object)
					break
				}
			}
		}
		if write {
			if err := a.recoverDisk(ctx, v, f, n, to, &disk); err != nil {
				return j, err
			}
		}
		j.Disks = append(j.Disks, disk)
	}
	return j, nil
}

// recoverDisk writes one disk. It has the name of a partial one until every byte of
// it has been proven: a crash leaves no image that promises too much.
func (a verb) recoverDisk(ctx context.Context, v *vault.Vault, f salvage.Found, n int, to string, disk *foundDiskJSON) error {
	name := fmt.Sprintf("%s-%s", fileStem(f.GuestName), id.Short(f.Point))
	path, partial := filepath.Join(to, fmt.Sprintf("%s-%d.raw", name, n)), filepath.Join(to, fmt.Sprintf("%s-%d.partial.raw", name, n))
	if d := f.Disks[n]; d.Carried && export.CheckPath(d.File) == nil {
		path = filepath.Join(to, name+".tree", filepath.FromSlash(d.File))
	}
	if _, err := os.Lstat(path); err == nil {
		return fault.At("recover disk to", path, restore.ErrExists)
	}
	bar := a.Progress("recover " + session.Plain(disk.Key))
	defer bar.Done()
	lost, err := f.Write(ctx, v, n, partial, func(now restore.Progress) { bar.At(now.Done, now.Size) })
	if errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrNoDomain) { // shredded, or its keys are lost
		disk.State, disk.Readable = "partial", 0 // its map, or nothing at all, opens: nothing was written
		return nil
	}
	if err != nil {
		return fault.At("recover disk to", partial, err)
	}
	disk.Path, disk.State, disk.Readable = partial, "partial", disk.Size
	for _, r := range lost {
		disk.Readable -= r.Length
	}
	if len(lost) > 0 {
		return nil
	}
	if err := moveInside(to, partial, path); err != nil {
		return fault.At("recover disk to", path, err)
	}
	disk.Path, disk.State, disk.Missing = path, "exact", []string{}
	return nil
}

// moveInside renames a file inside a folder, makes the folders that its new name
// needs, and follows no link out of it.
func moveInside(folder, from, to string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	oldName, err := filepath.Rel(folder, from)
	if err != nil {
		return err
	}
	newName, err := filepath.Rel(folder, to)
	if err != nil {
		return err
	}
	if err := root.MkdirAll(filepath.Dir(newName), 0o700); err != nil {
		return err
	}
	return root.Rename(oldName, newName)
}

// recoverLoose describes disks known from packs alone, and writes them.
func (a verb) recoverLoose(ctx context.Context, v *vault.Vault, all []salvage.Loose, to string) (inexact int, err error) {
	for _, l := range all {
		j := looseJSON{Type: "loose", Guest: l.Guest, Disk: l.Disk, Size: l.Size, Covered: l.Covered, Packs: l.Packs}
		if to != "" {
			j.Path = filepath.Join(to, fmt.Sprintf("loose-%s-%s.partial.raw", l.Guest, l.Disk))
			got, err := a.writeLoose(ctx, v, l, j.Path)
			if err != nil {
				return inexact, fault.At("recover disk to", j.Path, err)
			}
			j.Covered = got.Covered
			for _, r := range got.Lost {
				j.Lost = append(j.Lost, looseLost{r.Offset, r.Length})
			}
			for _, err := range got.Damage {
				j.Damage = append(j.Damage, err.Error())
			}
			if len(got.Lost) > 0 {
				inexact++
			}
		}
		if a.Settings.JSON {
			a.PrintJSON(j)
			continue
		}
		fmt.Fprintf(a.Stdout, "loose: disk %s of guest %s: %s of at least %s, from %d packs; best effort: which bytes belong together is not known\n",
			l.Disk, l.Guest, session.Size(j.Covered), session.Size(l.Size), l.Packs)
		for _, r := range j.Lost {
			fmt.Fprintf(a.Stdout, "lost: disk %s, %d bytes at %d: the newest content cannot be read; older bytes or zeros are there\n", l.Disk, r.Length, r.Offset)
		}
		for _, cause := range j.Damage {
			fmt.Fprintf(a.Stdout, "damaged: %s\n", session.Plain(cause))
		}
	}
	return inexact, nil
}

func (a verb) writeLoose(ctx context.Context, v *vault.Vault, l salvage.Loose, path string) (got salvage.Written, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(l.Size); err != nil {
		return got, err
	}
	bar := a.Progress("recover loose disk")
	defer bar.Done()
	got, err = l.Write(ctx, v, f, func(done, all int) { bar.At(int64(done), int64(all)) })
	if err != nil {
		return got, err
	}
	return got, f.Sync()
}

// fileStem makes the beginning of a file name of a guest's name.
func fileStem(name string) string {
	name = fileName(name, ".raw")
	if name == "" {
		return "guest"
	}
	return name[:len(name)-len(".raw")]
}

// damageJSON is an object of the vault that is wrong.
type damageJSON struct {
	Type   string `json:"type"`
	Object string `json:"object"`
	Cause  string `json:"cause"`
}
