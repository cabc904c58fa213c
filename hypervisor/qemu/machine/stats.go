package machine

import (
	"context"
	"time"
)

// Requests is how long all reads, writes and flushes of the guest have taken together, and
// how many they were, on those devices that in names by their paths.
func (m *Monitor) Requests(ctx context.Context, in func(qdev string) bool) (took time.Duration, n int64, err error) {
	var all []struct {
		QDev  string
		Stats struct {
			Reads     int64 `json:"rd_operations"`
			Writes    int64 `json:"wr_operations"`
			Flushes   int64 `json:"flush_operations"`
			ReadTime  int64 `json:"rd_total_time_ns"`
			WriteTime int64 `json:"wr_total_time_ns"`
			FlushTime int64 `json:"flush_total_time_ns"`
		}
	}
	if err := m.Do(ctx, "query-blockstats", nil, &all); err != nil {
		return 0, 0, err
	}
	for _, d := range all {
		if s := d.Stats; in(d.QDev) {
			took += time.Duration(s.ReadTime + s.WriteTime + s.FlushTime)
			n += s.Reads + s.Writes + s.Flushes
		}
	}
	return took, n, nil
}
