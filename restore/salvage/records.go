package salvage

import (
	"context"
	"iter"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

// records yields the records of every segment that opens, in the order of their
// numbers, whatever is missing around them: for a ledger that is lost in part. That
// a record is authentic is certain, that it is the last word is not. What cannot be
// read is an error that names the object, and the iteration goes on.
func records(ctx context.Context, v *vault.Vault) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for e, err := range v.Store.List(ctx, "ledger/") {
			if err != nil {
				yield(events.Record{}, err)
				return
			}
			seq, ok := ledger.SegmentNumber(e.Name)
			if !ok {
				continue
			}
			var records []events.Record
			s, err := ledger.ReadSegment(ctx, v.Config, v.Store, seq)
			if err == nil {
				records, err = s.Records(ctx, v)
			}
			if err != nil && !yield(events.Record{}, err) || ctx.Err() != nil {
				return
			}
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}
