package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/runs"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/heal"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// maxDamageFacts bounds how many damaged ranges one fact lists; the count in it
// is exact.
const maxDamageFacts = 1000

// verb gives this package's functions the App.
type verb struct{ *session.App }

// Verify is the verb verify of a program of this version.
func Verify(app *session.App, version string) *cobra.Command {
	a := verb{app}
	var readData string
	var boot runs.BootOptions
	var boots bool
	c := &cobra.Command{
		Use:   "verify [POINT...]",
		Short: "Prove that points can be restored",
		Long: `Prove that points can be restored; all of them if none is named.

Every reference of a point is followed: that its table is what the ledger says, and
that each chunk is where it should be in a pack that is whole in length. With
--read-data chunks are read, decrypted, unpacked and compared with their ids too:
all of them, or the given percentage, another sample each time. Before the points,
what they rest on is read from the vault itself: every segment and checkpoint of
the ledger, and every key as far as that goes without its secret. If no point is named and data is
read, so are packs as a whole, for chunks that no point refers to but the next
backup would.

Whatever is found wrong is listed with the ranges of the disks that need it, is
recorded in the ledger, and ends in exit code 4. What is wrong is looked at twice:
a vault that is away, or answers late, is no damage. Chunks that are damaged are
withdrawn: no backup refers to them any more, points that need them are marked, named
or not, and the next backup that sees the same data stores it again. Then all these
points read right once more, which verify --read-data confirms.

With --boot the guest of each point is started from it instead, isolated, and thrown away
again when it has come up: when its agent answers, or a line on its serial port says so.`,
		RunE: func(c *cobra.Command, args []string) error {
			if boots {
				return runs.VerifyBoot(c.Context(), a.App, args, boot)
			}
			percent, err := strconv.Atoi(strings.TrimSuffix(readData, "%"))
			if err != nil || percent < 0 || percent > 100 {
				return fault.Usage("--read-data %s: not a percentage", readData)
			}
			return a.verify(c.Context(), args, percent, version)
		},
	}
	c.Flags().StringVar(&readData, "read-data", "0", "percentage of the chunks to read and check")
	c.Flags().Lookup("read-data").NoOptDefVal = "100"
	c.Flags().BoolVar(&boots, "boot", false, "boot the points' guests, isolated, and throw them away")
	boot.AddFlags(c)
	return c
}

// run is one verification.
type run struct {
	verb
	v       *session.Vault
	names   []string
	percent int
	version string
	began   time.Time
	start   uint64 // where the ledger ended
	eye     *heal.Eye
	seen    *heal.Sight
	told    map[string]bool // objects that a point has shown to be damaged
	facts   []events.PointVerified
	bad     []error // what is wrong
	objects int     // of them, with the vault itself
}

func (a verb) verify(ctx context.Context, names []string, percent int, version string) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	c := &run{verb: a, v: v, names: names, percent: percent, version: version, began: a.Now(), eye: heal.NewEye(v.Vault, 0, 0), seen: heal.NewSight(),
		told: map[string]bool{}}
	c.start, _, _ = v.Ledger.Head()
	if c.bad, err = a.verifyVault(ctx, v); err != nil {
		return fault.At("verify vault", v.Location, err)
	}
	c.objects = len(c.bad)
	c.heal(ctx)
	points, release, err := a.hold(ctx, v, names, percent)
	if err != nil {
		return errors.Join(append(c.bad, err)...)
	}
	defer release()
	for _, p := range points {
		if err := c.point(ctx, p); err != nil {
			return fault.At("verify point", id.Short(p.Point), err)
		}
	}
	if percent > 0 && len(names) == 0 {
		packs, err := c.packs(ctx)
		c.objects, c.bad = c.objects+len(packs), append(c.bad, packs...)
		if err != nil {
			return fault.At("verify packs of vault", v.Location, errors.Join(append(c.bad, err)...))
		}
	}
	where, err := c.conclude(ctx)
	if err != nil {
		return errors.Join(append(c.bad, err)...)
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type       string `json:"type"`
			Points     int    `json:"points"`
			Damaged    int    `json:"damaged"`
			Position   uint64 `json:"position"`
			Checkpoint uint64 `json:"checkpoint"`
			Objects    int    `json:"damaged_objects"` // of the vault itself: ledger, checkpoints, keys, packs
		}{"summary", len(c.facts), len(c.bad) - c.objects, where.Position, where.Checkpoint, c.objects})
	}
	return fault.At("verify vault", v.Location, errors.Join(c.bad...))
}

// hold finds the points, and keeps what they need while their data is read.
func (a verb) hold(ctx context.Context, v *session.Vault, names []string, percent int) ([]events.PointCommitted, func(), error) {
	points, err := v.ChoosePoints(ctx, names)
	if err != nil {
		return nil, nil, err
	}
	var size int64
	var which []id.Point
	for _, p := range points {
		size += p.DiskBytes / 100 * int64(percent)
		which = append(which, p.Point)
	}
	release, err := a.Hold(ctx, v, "verify", which, size)
	if err != nil {
		return nil, nil, err
	}
	if points, err = v.ChoosePoints(ctx, names); err != nil {
		release()
	}
	return points, release, err
}

// looks is how often a point is verified whose damage was not there at a second look.
const looks = 3

// point checks one point and prints what it found. Where damage is found, the
// state of the ledger is read again: a point that was forgotten meanwhile is left out,
// and one whose tables were replaced, because its chunks have moved, is checked once
// more with those. So is one of whose damage something has passed.
func (c *run) point(ctx context.Context, p events.PointCommitted) error {
	for n := 1; ; n++ {
		report, took, err := c.look(ctx, p)
		if err != nil && !errors.Is(err, vault.ErrDamaged) {
			return err
		}
		if err == nil {
			c.take(p, report, took, nil)
			return nil
		}
		s, stateErr := c.v.Now(ctx)
		if stateErr != nil { // the ledger is damaged too, which has been told
			c.take(p, report, took, err)
			return nil
		}
		now := s.Points[p.Point]
		if now == nil || now.Forgotten != 0 {
			c.Note("millrace: point %s of %s was forgotten while it was verified", id.Short(p.Point), session.Plain(p.GuestName))
			return nil
		}
		moved := !reflect.DeepEqual(now.Disks, p.Disks)
		before := c.seen.Passed
		if !moved {
			if stop := c.eye.Again(ctx, s, report.Damages, c.seen); stop != nil {
				return stop
			}
		}
		if n == looks || !moved && c.seen.Passed == before {
			c.take(p, report, took, err)
			return nil
		}
		p = now.PointCommitted
	}
}

func (c *run) look(ctx context.Context, p events.PointCommitted) (restore.Report, time.Duration, error) {
	bar := c.Progress("verify " + id.Short(p.Point) + " " + session.Plain(p.GuestName))
	start := c.Now()
	report, err := restore.Verify(ctx, c.v.Vault, p, restore.Options{ReadPercent: c.percent, Seed: rand.Uint64(),
		Progress: func(now restore.Progress) { bar.At(now.Done, now.Size) }})
	bar.Done()
	return report, c.Now().Sub(start), err
}

// take notes what a point has shown.
func (c *run) take(p events.PointCommitted, report restore.Report, took time.Duration, wrong error) {
	for _, d := range report.Damages {
		c.told[d.Object] = true
	}
	fact := events.PointVerified{Point: p.Point, Guest: p.Guest, Mode: "objects", Chunks: uint64(report.Chunks), Bytes: report.ReadBytes,
		DurationNS: took.Nanoseconds(), DamagedCount: uint64(report.DamageCount), Damaged: report.Facts(maxDamageFacts)}
	if c.percent > 0 {
		fact.Mode, fact.Percent = "chunks", uint32(c.percent)
	}
	c.printReport(p, report, fact.Mode, took)
	c.facts = append(c.facts, fact)
	if wrong != nil {
		c.bad = append(c.bad, fmt.Errorf("point %s of %s: %w", id.Short(p.Point), p.GuestName, wrong))
	}
}

// damageJSON is one thing that is wrong, for scripts.
type damageJSON struct {
	Object string      `json:"object"`
	Chunk  string      `json:"chunk,omitempty"`
	Cause  string      `json:"cause"`
	Ranges []rangeJSON `json:"ranges"`
}

type rangeJSON struct {
	Disk   id.Disk `json:"disk"`
	Key    string  `json:"key"`
	Offset int64   `json:"offset"`
	Length int64   `json:"length"`
}

func (a verb) printReport(p events.PointCommitted, r restore.Report, mode string, took time.Duration) {
	if a.Settings.JSON {
		damages := []damageJSON{}
		for _, d := range r.Damages {
			j := damageJSON{Object: d.Object, Cause: d.Cause.Error(), Ranges: []rangeJSON{}}
			if !d.Chunk.IsZero() {
				j.Chunk = d.Chunk.String()
			}
			for _, at := range d.Ranges {
				j.Ranges = append(j.Ranges, rangeJSON{at.Disk, at.Key, at.Offset, at.Length})
			}
			damages = append(damages, j)
		}
		a.PrintJSON(struct {
			Type      string       `json:"type"`
			Point     id.Point     `json:"point"`
			GuestName string       `json:"guest_name"`
			Mode      string       `json:"mode"`
			DiskBytes int64        `json:"disk_bytes"`
			DataBytes int64        `json:"data_bytes"`
			Chunks    int64        `json:"chunks"`
			ReadCount int64        `json:"read_chunks"`
			ReadBytes int64        `json:"read_bytes"`
			Duration  float64      `json:"duration_s"`
			Damaged   int          `json:"damaged_count"`
			Damages   []damageJSON `json:"damages"`
		}{"status", p.Point, p.GuestName, mode, r.DiskBytes, r.DataBytes, r.Chunks, r.ReadCount, r.ReadBytes, took.Seconds(), r.DamageCount, damages})
		return
	}
	state := "whole"
	if r.DamageCount > 0 {
		state = fmt.Sprintf("DAMAGED in %d places", r.DamageCount)
	}
	fmt.Fprintf(a.Stdout, "%s  %s  %s: %s; %d chunks in %d packs, %d read (%s)\n", id.Short(p.Point), session.Plain(p.GuestName),
		p.Time.Time().Format(time.RFC3339), state, r.Chunks, r.Packs, r.ReadCount, session.Size(r.ReadBytes))
	for _, d := range r.Damages {
		fmt.Fprintf(a.Stdout, "  %s: %s\n", session.Plain(d.Object), session.Plain(d.Cause.Error()))
		for _, at := range d.Ranges {
			fmt.Fprintf(a.Stdout, "    needed by %s at %d, %d bytes\n", session.Plain(at.Key), at.Offset, at.Length)
		}
	}
}
