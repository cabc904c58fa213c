// Package toolarge tells apart the guests whose disks fit the plan of a job and those whose
// disks do not, before anything is frozen for them. [Split] is all there is of it: a pure
// function of sizes and numbers, which says of each guest that is left out why, and what its
// operator can do. It opens no disk.
package toolarge

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
)

// maxParcels is how many parcels the disks of a guest may have together. Their
// plan has two bits for each, whether it is read and whether it is read twice, and
// goes in one message, of which they may take half: 64 TiB in parcels of 4 MiB. It also keeps parcel numbers far from their 32 bits.
const maxParcels = flow.MaxMessage / 2 * 4

// Split returns the guests whose disks fit their plan in parcels of so many bytes, and
// what is to be said of the others.
func Split(guests []hypervisor.Guest, parcel int64) (kept []hypervisor.Guest, failed []events.GuestOutcome) {
	kept = make([]hypervisor.Guest, 0, len(guests))
	for _, g := range guests {
		out := events.GuestOutcome{Guest: g.ID, Name: g.Name, Outcome: "failed", Code: "too-large", Op: "plan", Object: g.Source}
		parcels, bytes := planned(g, parcel)
		switch {
		case len(g.Disks) > hypervisor.MaxDisks:
			out.Cause = fmt.Sprintf("it has %d disks; a guest may have %d", len(g.Disks), hypervisor.MaxDisks)
			out.Remedy = "choose fewer disks with --disk, or give the folder of one machine"
		case parcels > maxParcels:
			out.Cause = fmt.Sprintf("its disks have %s, which are %d parcels of %s; a guest may have %d", humanize.IBytes(bytes), parcels,
				humanize.IBytes(uint64(parcel)), int64(maxParcels))
			out.Remedy = "give larger parcels with --parcel 32MiB, or choose fewer disks with --disk"
		default:
			kept = append(kept, g)
			continue
		}
		failed = append(failed, out)
	}
	return kept, failed
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
