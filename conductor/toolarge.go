package conductor

import (
	"fmt"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
)

// maxParcels is how many parcels the disks of a guest may have together. Their
// plan has two bits for each, whether it is read and whether it is read twice, and
// goes in one message, of which they may take half: 64 TiB in parcels of 4 MiB. It also keeps parcel numbers far from their 32 bits.
const maxParcels = flow.MaxMessage / 2 * 4

// leaveOut gives up guests whose disks are too large for their plan.
func (j *job) leaveOut() {
	kept := make([]hypervisor.Guest, 0, len(j.o.Guests))
	for _, g := range j.o.Guests {
		parcels, bytes := planned(g, j.o.ParcelSize)
		if parcels <= maxParcels {
			kept = append(kept, g)
			continue
		}
		j.o.Failed = append(slices.Clip(j.o.Failed), events.GuestOutcome{
			Guest: g.ID, Name: g.Name, Outcome: "failed", Code: "too-large", Op: "plan", Object: g.Source,
			Cause: fmt.Sprintf("its disks have %s, which are %d parcels of %s; a guest may have %d", humanize.IBytes(bytes), parcels,
				humanize.IBytes(uint64(j.o.ParcelSize)), int64(maxParcels)),
			Remedy: "give larger parcels with --parcel 32MiB, or choose fewer disks with --disk",
		})
	}
	j.o.Guests = kept
}

// planned is how many parcels and bytes the disks of a guest have.
func planned(g hypervisor.Guest, parcel int64) (parcels int64, bytes uint64) {
	for _, d := range g.Disks {
		parcels += d.Info.VirtualSize / parcel
		if d.Info.VirtualSize%parcel != 0 {
			parcels++
		}
		bytes += uint64(d.Info.VirtualSize)
	}
	return parcels, bytes
}
