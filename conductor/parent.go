package conductor

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/points"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// maxDistrusted is how many packs a job may be told to distrust. A point that
// names more of them is not worth comparing with.
const maxDistrusted = 20_000

// parent is the point a guest is compared with, its disks by their place in
// disks (nil: none), and why the scan is as it is. A parent only saves work: cuts
// and ids do not depend on it, and one whose tables cannot be read is none.
func (j *job) parent(ctx context.Context, g hypervisor.Guest, disks []events.DiskInfo) (point id.Point, old []*events.PointDisk, why string) {
	none := make([]*events.PointDisk, len(disks))
	if j.o.Scan == "full" {
		return point, none, "asked for: nothing is compared with an earlier point"
	}
	p := known.Point(j.o.Catalog, g.ID, j.o.Parents[g.ID])
	if p == nil {
		return point, none, "first point of this guest"
	}
	distrusted := map[flow.PackID]bool{}
	var tables []events.TableRef
	for _, d := range disks {
		same := points.SameDisk(&p.PointCommitted, d)
		old = append(old, same)
		if same == nil {
			continue
		}
		m, err := table.OpenMap(ctx, j.o.Vault, *same)
		if err != nil {
			return point, none, fmt.Sprintf("parent's tables cannot be read: %v", err)
		}
		if !m.Within(j.work.Domain) {
			return point, none, fmt.Sprintf("the chunks of point %s are of another domain, so that nothing of it can be referred to", id.Short(p.Point))
		}
		tables = append(tables, same.Chunks...)
		for k := range m.Packs() {
			if !j.index.Trusts(catalog.PackKey{Job: k.Job, Pack: k.Name}) {
				distrusted[flow.PackID(k)] = true
			}
		}
	}
	withdrawn, err := j.index.Listed(ctx, j.o.Vault, tables, distrusted)
	if err != nil {
		return point, none, fmt.Sprintf("parent's tables cannot be read: %v", err)
	}
	if len(j.work.Distrusted)+len(distrusted) > maxDistrusted {
		return point, none, fmt.Sprintf("%d packs that point %s names are lost or not to be used", len(distrusted), id.Short(p.Point))
	}
	for k := range distrusted {
		j.work.Distrusted = append(j.work.Distrusted, k)
	}
	j.work.Withdrawn = append(j.work.Withdrawn, withdrawn...)
	why = "all data is read and compared with point " + id.Short(p.Point)
	if len(distrusted) > 0 {
		why += fmt.Sprintf("; what it has in %d packs that are lost or not to be used is stored again", len(distrusted))
	}
	if len(withdrawn) > 0 {
		why += fmt.Sprintf("; %d of its chunks are damaged, and stored again", len(withdrawn))
	}
	return p.Point, old, why
}
