package heal

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Touched counts the bad places that a point's disks refer to, and lists the ranges
// that need them, at most limit. What newer layers of the point hide is not counted.
// It reads tables and no pack: of a point that names no pack with a bad place, the
// indexes of its tables.
func Touched(ctx context.Context, v *vault.Vault, p events.PointCommitted, bad catalog.Bad, limit int) (count uint64, list []events.Damage, err error) {
	met := map[place]bool{}
	for _, d := range p.Disks {
		if len(bad) == 0 {
			break
		}
		m, err := table.OpenMap(ctx, v, d)
		if err != nil {
			return 0, nil, fmt.Errorf("look for what was withdrawn in disk %s: %w", d.Key, err)
		}
		some := false
		for k := range m.Packs() {
			some = some || bad[key(k)] != nil
		}
		if !some {
			continue
		}
		for x, err := range m.Range(ctx, 0, d.Size) {
			if err != nil {
				return 0, nil, fmt.Errorf("look for what was withdrawn in disk %s: %w", d.Key, err)
			}
			k := key(x.Pack)
			if x.Zero || !bad.Has(k, x.Chunk) {
				continue
			}
			met[place{k, x.Chunk}] = true
			list = appendRange(list, limit, events.Damage{Disk: d.Disk, Offset: x.Offset, Length: x.Length, Chunk: x.Chunk,
				Pack: events.PackName{Job: k.Job, Pack: k.Pack}, Cause: Cause})
		}
	}
	return uint64(len(met)), list, nil
}

// Cause is what is said of a range that needs a chunk which was withdrawn.
const Cause = "the chunk was found damaged, and withdrawn; no copy of it is known yet"

// appendRange joins a range to the one before it if they need the same chunk.
func appendRange(list []events.Damage, limit int, d events.Damage) []events.Damage {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.Disk == d.Disk && last.Offset+last.Length == d.Offset && last.Chunk == d.Chunk {
			last.Length += d.Length
			return list
		}
	}
	if len(list) == limit {
		return list
	}
	return append(list, d)
}

// place is a chunk in a pack.
type place struct {
	pack  catalog.PackKey
	chunk id.Chunk
}
