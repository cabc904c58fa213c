package read

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
)

// maxDamageFacts bounds how many damaged ranges one fact lists; the count in it
// is exact.
const maxDamageFacts = 1000

// Verify is the verb verify.
func Verify(app *session.App) *cobra.Command {
	a := verb{app}
	var readData string
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
recorded in the ledger, and ends in exit code 4.`,
		RunE: func(c *cobra.Command, args []string) error {
			percent, err := strconv.Atoi(strings.TrimSuffix(readData, "%"))
			if err != nil || percent < 0 || percent > 100 {
				return fault.Usage("--read-data %s: not a percentage", readData)
			}
			return a.verify(c.Context(), args, percent)
		},
	}
	c.Flags().StringVar(&readData, "read-data", "0", "percentage of the chunks to read and check")
	c.Flags().Lookup("read-data").NoOptDefVal = "100"
	return c
}

func (a verb) verify(ctx context.Context, names []string, percent int) error {
	v, err := a.OpenVault(ctx)
	if err != nil {
		return err
	}
	bad, err := a.verifyVault(ctx, v)
	if err != nil {
		return fault.At("verify vault", v.Location, err)
	}
	objects, told := len(bad), map[string]bool{}
	points, release, err := a.hold(ctx, v, names, percent)
	if err != nil {
		return errors.Join(append(bad, err)...)
	}
	defer release()
	var facts []events.Fact
	for _, p := range points {
		fact, err := a.verifyPoint(ctx, v, p, percent, told)
		if err != nil && !errors.Is(err, vault.ErrDamaged) {
			return fault.At("verify point", id.Short(p.Point), err)
		}
		facts = append(facts, fact)
		if err != nil {
			bad = append(bad, fmt.Errorf("point %s of %s: %w", id.Short(p.Point), p.GuestName, err))
		}
	}
	damaged := len(bad) - objects
	if percent > 0 && len(names) == 0 {
		packs, err := a.verifyPacks(ctx, v, percent, told)
		if err != nil {
			return fault.At("verify packs of vault", v.Location, errors.Join(append(bad, err)...))
		}
		objects, bad = objects+len(packs), append(bad, packs...)
	}
	where, err := a.Record(ctx, v, facts...)
	if err != nil {
		return errors.Join(append(bad, err)...)
	}
	if a.Settings.JSON {
		a.PrintJSON(struct {
			Type       string `json:"type"`
			Points     int    `json:"points"`
			Damaged    int    `json:"damaged"`
			Position   uint64 `json:"position"`
			Checkpoint uint64 `json:"checkpoint"`
			Objects    int    `json:"damaged_objects"` // of the vault itself: ledger, checkpoints, keys, packs
		}{"summary", len(points), damaged, where.Position, where.Checkpoint, objects})
	}
	return fault.At("verify vault", v.Location, errors.Join(bad...))
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

// verifyPoint checks one point and prints what it found; objects it blames are
// added to told.
func (a verb) verifyPoint(ctx context.Context, v *session.Vault, p events.PointCommitted, percent int, told map[string]bool) (events.PointVerified, error) {
	bar := a.Progress("verify " + id.Short(p.Point) + " " + session.Plain(p.GuestName))
	start := a.Now()
	report, err := restore.Verify(ctx, v.Vault, p, restore.Options{ReadPercent: percent, Seed: rand.Uint64(),
		Progress: func(now restore.Progress) { bar.At(now.Done, now.Size) }})
	bar.Done()
	for _, d := range report.Damages {
		told[d.Object] = true
	}
	took := a.Now().Sub(start)
	fact := events.PointVerified{Point: p.Point, Guest: p.Guest, Mode: "objects", Chunks: uint64(report.Chunks), Bytes: report.ReadBytes,
		DurationNS: took.Nanoseconds(), DamagedCount: uint64(report.DamageCount), Damaged: report.Facts(maxDamageFacts)}
	if percent > 0 {
		fact.Mode, fact.Percent = "chunks", uint32(percent)
	}
	a.printReport(p, report, fact.Mode, took)
	return fact, err
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
