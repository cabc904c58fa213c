package hub

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/id"
)

// Sweep removes the streams that dead jobs with this hub's label have left on the
// server, as a conductor that was killed does. A job is dead if it is not among
// the live ones and its streams are older than age; a stream that is not labelled
// is somebody else's. It returns how many went.
func (h *Hub) Sweep(ctx context.Context, live map[id.Job]bool, age time.Duration) (removed int, err error) {
	if len(h.label) == 0 {
		return 0, nil
	}
	list := h.js.ListStreams(ctx)
	var dead []string
	for s := range list.Info() {
		var job id.Job
		prefix, text, ok := strings.Cut(s.Config.Name, "_")
		if !ok || !strings.Contains("J B F", prefix) || job.UnmarshalText([]byte(text)) != nil || live[job] || job == h.job {
			continue
		}
		ours := maps.Clone(s.Config.Metadata) // the server adds entries of its own
		maps.DeleteFunc(ours, func(k, _ string) bool { _, is := h.label[k]; return !is })
		if maps.Equal(ours, h.label) && s.TimeStamp.Sub(s.Created) > age { // both by the server's clock
			dead = append(dead, s.Config.Name)
		}
	}
	if err := list.Err(); err != nil {
		return 0, fmt.Errorf("list the streams on NATS: %w", err)
	}
	for _, name := range dead {
		if err := h.js.DeleteStream(ctx, name); err != nil {
			return removed, fmt.Errorf("remove %s from NATS: %w", name, err)
		}
		removed++
	}
	return removed, nil
}
