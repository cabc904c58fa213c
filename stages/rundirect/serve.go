package rundirect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/server"
	"github.com/millrace-backup/millrace/blockdev/overlay"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore/live"
	"github.com/millrace-backup/millrace/vault"
)

// Work is what a process serves.
type Work struct {
	Run    id.Job             `json:"run"`
	Point  id.Point           `json:"point"`
	Disks  []events.PointDisk `json:"disks"`
	Folder string             `json:"folder"` // of the run: overlays are in disks/N
	Socket string             `json:"socket"` // path of the NBD server's
	Home   string             `json:"home"`   // path of the socket at which disks are brought home
	Traces string             `json:"traces"` // folder for traces of boots; empty: none are kept
	Memory int64              `json:"memory"` // for chunks; 0: live.DefaultMemory
	Still  bool               `json:"still"`  // nobody may write
}

// ExportName is the name of the export of a disk.
func ExportName(n int) string { return "disk" + strconv.Itoa(n) }

// OverlayFolder is where the overlay of a disk is.
func OverlayFolder(run string, n int) string { return filepath.Join(run, "disks", strconv.Itoa(n)) }

// Size is how large a disk is served: in whole sectors.
func Size(d events.PointDisk) int64 { return (d.Size + sector - 1) / sector * sector }

func options(point id.Point, d events.PointDisk) overlay.Options {
	return overlay.Options{Size: Size(d), Over: point.String() + "/" + d.Disk.String()}
}

// Prepare makes the overlays of a run, in its folder. One that is there is left as it is.
func Prepare(w Work) error {
	for n, d := range w.Disks {
		folder := OverlayFolder(w.Folder, n)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		o, err := overlay.Create(folder, options(w.Point, d))
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := o.Close(); err != nil {
			return err
		}
	}
	return nil
}

// OpenOverlay opens the overlay of a disk that nobody serves.
func OpenOverlay(w Work, n int) (*overlay.Overlay, error) {
	return overlay.Open(OverlayFolder(w.Folder, n), options(w.Point, w.Disks[n]))
}

// Counts are what was served until now, in bytes.
type Counts struct {
	Read    int64 `json:"read_bytes"`    // by the guest
	Written int64 `json:"written_bytes"` // by the guest
	Fetched int64 `json:"fetched_bytes"` // from the vault
	Overlay int64 `json:"overlay_bytes"` // of the disks, what the guest has written
}

// Serve serves until ctx ends. It calls ready when clients can connect, and tell every few
// seconds.
func Serve(ctx context.Context, v *vault.Vault, w Work, ready func() error, tell func(Counts)) (err error) {
	cache := live.NewCache(w.Memory)
	var disks []*disk
	defer func() {
		for _, d := range disks {
			d.trace.save()
			// Not flushed for the guest's sake, who did not ask: so that less is left to check.
			_ = d.over.Flush()
			err = errors.Join(err, d.over.Close(), d.below.Close())
		}
	}()
	o := server.Options{}
	var early sync.WaitGroup
	defer early.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for n, pd := range w.Disks {
		d, steps, err := openDisk(ctx, cache, v, w, n)
		if err != nil {
			return fmt.Errorf("serve disk %s: %w", pd.Key, err)
		}
		disks = append(disks, d)
		early.Go(func() { follow(ctx, d.below, steps, cmp.Or(w.Memory, live.DefaultMemory)/2/int64(len(w.Disks))) })
		o.Exports = append(o.Exports, server.Export{Name: ExportName(n), Description: pd.Key, Size: Size(pd), Block: sector, ReadOnly: w.Still, Disk: d})
	}
	s, err := server.New(o)
	if err != nil {
		return err
	}
	_ = os.Remove(w.Socket) // of a process that is gone: the overlays' locks are ours
	l, err := net.Listen("unix", w.Socket)
	if err != nil {
		return fmt.Errorf("serve disks: %w", err)
	}
	home, err := listenHome(w.Home)
	if err != nil {
		return errors.Join(fmt.Errorf("serve disks: %w", err), l.Close())
	}
	early.Go(func() { (&homes{v, w, disks}).serve(ctx, home) })
	if err := errors.Join(os.Chmod(w.Socket, 0o600), ready()); err != nil {
		return errors.Join(err, l.Close())
	}
	early.Go(func() { watch(ctx, cache, disks, tell) })
	return s.Serve(ctx, l)
}

func openDisk(ctx context.Context, cache *live.Cache, v *vault.Vault, w Work, n int) (*disk, []step, error) {
	pd := w.Disks[n]
	over, err := OpenOverlay(w, n)
	if err != nil {
		return nil, nil, err
	}
	below, err := cache.Open(ctx, v, pd)
	if err != nil {
		return nil, nil, errors.Join(err, over.Close())
	}
	path := filepath.Join(w.Traces, pd.Disk.String()+".trace")
	d := &disk{over: over, below: below, trace: newTrace(path, time.Now())}
	if w.Traces == "" {
		d.trace.end = time.Time{}
		return d, nil, nil
	}
	return d, loadTrace(path), nil
}

// watch tells what was served, and saves the traces when the guest has booted.
func watch(ctx context.Context, cache *live.Cache, disks []*disk, tell func(Counts)) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		c := Counts{Fetched: cache.Stats().Fetched}
		for _, d := range disks {
			c.Read += d.read.Load()
			c.Written += d.wrote.Load()
			c.Overlay += d.over.Stats().Written
			d.trace.save()
		}
		tell(c)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
