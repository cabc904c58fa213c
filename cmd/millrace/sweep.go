package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/lease"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Leftovers of killed jobs are kept this long: unfinished uploads because their
// writer may only be slow, folders of jobs for the logs in them. All else in the
// folder of a job that is known to have died goes at once.
const (
	keepUploads = 24 * time.Hour
	keepJobs    = 14 * 24 * time.Hour
)

// sweep removes what killed jobs left behind. It is housekeeping: what
// cannot be removed stays, and nobody is stopped by it.
func (a *app) sweep(ctx context.Context, v *session.Vault) {
	if st, ok := v.Store.(*dir.Store); ok {
		if n, bytes, err := st.Sweep(ctx, a.Now().Add(-keepUploads)); err == nil && n > 0 {
			a.Note("millrace: %d unfinished uploads of jobs that died removed, %s", n, session.Size(bytes))
		}
	}
	folders, _ := filepath.Glob(filepath.Join(a.Settings.State, "jobs", "*"))
	for _, f := range folders {
		lease.ClearDied(f, "log") // what it worked with is of no use to anyone
		// A running job writes its log; one that is this old is over.
		info, err := os.Stat(filepath.Join(f, "log", "conductor.log"))
		if err == nil && info.ModTime().Before(a.Now().Add(-keepJobs)) {
			_ = os.RemoveAll(f)
		}
	}
}
