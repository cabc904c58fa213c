package sidecar

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
)

// Uncompared says, for the reason of a guest's scan, which of its disks a job cannot
// compare block by block with the parent, and what that costs: a disk that is new or
// has another size, and one whose block hashes this host has lost or never had.
func Uncompared(w *flow.Work, guest uint32, parent *events.PointCommitted) (why string) {
	var added, resized, unhashed []string
	for _, n := range w.DisksOf(guest) {
		d := &w.Disks[n]
		if d.Parent == nil {
			if slices.ContainsFunc(parent.Disks, func(old events.PointDisk) bool { return old.Disk == d.Info.Disk }) {
				resized = append(resized, d.Info.Key)
			} else {
				added = append(added, d.Info.Key)
			}
			continue
		}
		if !Usable(w, n) {
			continue // packs are distrusted, which has been said
		}
		key, at := Of(w, n)
		f, err := Open(w.Sidecars, key, at)
		if err != nil {
			unhashed = append(unhashed, d.Info.Key)
			continue
		}
		_ = f.Close() // it was only looked at
	}
	for _, x := range []struct {
		disks []string
		what  string
	}{
		{added, "is not in it"},
		{resized, "had another size then: what was stored of it in small changes is stored again"},
		{unhashed, "has no block hashes of it on this host: what was stored of it in small changes is stored again, once"},
	} {
		if len(x.disks) > 0 {
			why += fmt.Sprintf("; disk %s %s", few(x.disks), x.what)
		}
	}
	return why
}

// few lists names, the first of them if they are many.
func few(names []string) string {
	const most = 3
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
