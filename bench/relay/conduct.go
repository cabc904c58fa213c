package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/millrace-backup/millrace/conductor/crew"
	"github.com/millrace-backup/millrace/conductor/logfile"
	"github.com/millrace-backup/millrace/conductor/parallel"
	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/seal"
)

const cellSize = 4 << 20

// parcelSize is that of a parcel where nobody says.
func parcelSize(transport string) int {
	if transport == flow.Inline {
		return cellSize
	}
	return 2 * cellSize
}

// Options of a job.
type Options struct {
	Parcels   int
	CPUs      int      // that worker counts are derived from
	Transport string   // flow.Claim or flow.Inline
	Command   []string // what to start for a stage; its name is appended
	Dir       string   // for a folder, which is removed
}

// Conduct runs a job to its end.
func Conduct(ctx context.Context, o Options) (err error) {
	if o.Parcels < 1 || o.Parcels > 1<<24 {
		return fmt.Errorf("forward %d parcels: give 1 to %d", o.Parcels, 1<<24)
	}
	folder, err := os.MkdirTemp(o.Dir, "millrace-relay-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := os.Mkdir(filepath.Join(folder, "log"), 0o700); err != nil {
		return err
	}
	log, err := logfile.New(filepath.Join(folder, "log", "conductor.log"))
	if err != nil {
		return err
	}
	keys, domain, err := seal.New()
	if err != nil {
		return err
	}
	parcel := parcelSize(o.Transport)
	work := flow.Work{
		Domain: domain, Transport: o.Transport, ParcelSize: int64(parcel), CellSize: cellSize,
		Guests: []flow.WorkGuest{{Name: "relay"}},
		Disks:  []flow.WorkDisk{{Info: events.DiskInfo{VirtualSize: int64(o.Parcels) * int64(parcel)}}},
	}
	slots, err := arena.New(arena.Shape{RawSlots: 6, RawSize: parcel, SealedSlots: 12, SealedSize: arena.SealedSize(parcel), RecentEntries: 1 << 10})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, slots.Close()) }()
	job := id.NewJob()
	q, err := queue.Start(ctx, job, &work, filepath.Join(folder, "nats"))
	if err != nil {
		return err
	}
	defer q.Close()
	r := &run{over: make(chan struct{})}
	c := &crew.Crew{
		Command: o.Command, Folder: folder, Log: log, Settings: flow.Config{Job: job, Work: work}, Arena: slots, Keys: keys,
		Queue: q, Depths: q.Hub.Depths, Note: func(events.Fact) {}, Stop: r.stop,
	}
	if err := q.Hub.Listen(func(s flow.Status) {
		c.Heard(s)
		if s.Fault != nil {
			r.stop(s.Fault)
		}
	}, func([]byte) { r.stop(nil) }); err != nil {
		return err
	}
	return r.run(ctx, c, parallel.Default(o.CPUs))
}

// run is a job until it is over.
type run struct {
	once  sync.Once
	fault *flow.Fault
	over  chan struct{}
}

// stop ends the job: nil says that all parcels have arrived.
func (r *run) stop(f *flow.Fault) {
	r.once.Do(func() { r.fault = f; close(r.over) })
}

func (r *run) run(ctx context.Context, c *crew.Crew, workers map[string]int) error {
	stages := flow.Stages()
	for i := len(stages) - 1; i >= 0; i-- { // sinks first, as ever
		for range workers[stages[i]] {
			if err := c.Start(stages[i]); err != nil {
				c.Dismiss()
				return err
			}
		}
	}
	select {
	case <-ctx.Done():
		c.Dismiss()
		return ctx.Err()
	case <-r.over:
	}
	if r.fault != nil {
		c.Dismiss()
		return r.fault
	}
	c.Drain(ctx)
	return nil
}
