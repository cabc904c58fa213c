package runs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/run"
	"github.com/millrace-backup/millrace/stages/rundirect"
	"github.com/millrace-backup/millrace/vdisk"
)

// ErrOn says that the guest of a run did not shut down.
var ErrOn = errors.New("the guest has not shut down")

// Offer is the file that names the run as a source for a backup. It is there while Keeping is set.
func (r *Run) Offer() string { return filepath.Join(r.folder, run.FileName) }

// Keep makes a run one whose disks stand still, and writes down what of them its guest has
// written, so that it can be made a point: supervised again, the run serves them for reading
// only, and a job reads them by the offer. The guest must be off, and nobody may supervise
// the run. consistency is what the disks then show, in the hypervisor's words, and reason why
// it is no more. Called again it does nothing: the disks stand still since the first time.
func (r *Run) Keep(ctx context.Context, consistency, reason string, now time.Time) error {
	lock, mine, err := r.lock()
	if err != nil {
		return err
	}
	if !mine {
		return ErrRunning
	}
	defer lock.Close()
	if !r.Keeping.IsZero() {
		return nil
	}
	o := run.Offer{Guest: r.Guest, Name: r.GuestName, Config: r.Config, Socket: r.Socket(), Consistency: consistency, Reason: reason}
	for n, d := range r.Disks {
		disk := run.Disk{ID: d.Disk, Key: d.Key, Export: rundirect.ExportName(n), Since: d.Token, Ranges: fmt.Sprintf("written-%d", n), Info: vdisk.Info{
			Format: d.Format, Variant: d.Variant, VirtualSize: d.Size, LogicalSector: d.Sector, PhysicalSector: d.PhysicalSector, BlockSize: d.BlockSize, DiskID: d.DiskID,
		}}
		if disk.Sum, err = r.writeRanges(ctx, n, filepath.Join(r.folder, disk.Ranges)); err != nil {
			return fmt.Errorf("disk %s: note what was written: %w", d.Key, err)
		}
		o.Disks = append(o.Disks, disk)
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	// The offer, then the word that it holds. A crash in between leaves a run that can be
	// resumed, and whose next offer is made anew.
	if err := replaceFile(r.Offer(), b); err != nil {
		return err
	}
	r.Keeping = now
	if err := r.save(); err != nil {
		r.Keeping = time.Time{}
		return err
	}
	return nil
}

// Unkeep lets the disks of a run be written again.
func (r *Run) Unkeep() error {
	if r.Keeping.IsZero() {
		return nil
	}
	r.Keeping = time.Time{}
	return r.save()
}

func (r *Run) writeRanges(ctx context.Context, n int, path string) (sum string, err error) {
	o, err := rundirect.OpenOverlay(r.Work(), n)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	return run.WriteRanges(path, written(o.Written(ctx, 0, o.Size())))
}

func written(extents iter.Seq2[vdisk.Extent, error]) iter.Seq2[hypervisor.Range, error] {
	return func(yield func(hypervisor.Range, error) bool) {
		for e, err := range extents {
			if (err != nil || e.Kind != vdisk.Inherited) && !yield(hypervisor.Range{Offset: e.Offset, Length: e.Length}, err) {
				return
			}
		}
	}
}
