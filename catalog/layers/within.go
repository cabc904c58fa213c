package layers

import (
	"context"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Within lists the parcels of a disk in which a point refers to packs that gone
// names, in a set.
func Within(ctx context.Context, v *vault.Vault, disk events.PointDisk, parcel int64, gone map[flow.PackID]error) (map[uint32]bool, error) {
	m, err := table.OpenMap(ctx, v, disk)
	if err != nil {
		return nil, err
	}
	in := map[uint32]bool{}
	for p, err := range m.Range(ctx, 0, m.Size()) {
		if err != nil {
			return nil, err
		}
		if p.Zero || gone[flow.PackID(p.Pack)] == nil {
			continue
		}
		for n := p.Offset / parcel; n*parcel < p.Offset+p.Length; n++ {
			in[uint32(n)] = true
		}
	}
	return in, nil
}
