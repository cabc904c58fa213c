package conductor

import (
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// What another job has stored is found as soon as its facts are seen, and not any
// more when its pack is lost, retired or withdrawn. A job's own packs are none of
// its business.
func TestWhatOtherJobsStore(t *testing.T) {
	for _, how := range []string{"there", "own", "gone", "short", "withdrawn", "retired"} {
		t.Run(how, func(t *testing.T) {
			b := newBed(t, 16<<20)
			s, p := b.backup(t, nil)
			o := known.Others{Vault: b.vault, Domain: b.vault.Config.DefaultDomain, Job: id.NewJob(), Folder: filepath.Join(t.TempDir(), known.OthersFolder)}
			if how == "own" {
				o.Job = s.Job
			}
			find := func() (found, all int) {
				t.Helper()
				if _, err := o.Index(t.Context()); err != nil {
					t.Fatal(err)
				}
				files, err := filepath.Glob(filepath.Join(o.Folder, "*.idx"))
				if err != nil {
					t.Fatal(err)
				}
				index, err := chunkindex.Open(files)
				if err != nil {
					t.Fatal(err)
				}
				defer index.Close()
				chunks, err := table.OpenChunks(t.Context(), b.vault, p.Disks[0].Chunks[0])
				if err != nil {
					t.Fatal(err)
				}
				for r, err := range chunks.All(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					if at, ok := index.Find(r.Chunk); ok && at.Offset == r.Offset && at.Job == s.Job {
						found++
					}
					all++
				}
				return found, all
			}
			next := uint64(0)
			read := func() {
				t.Helper()
				for r, err := range b.ledger(t).Records(t.Context(), next) {
					if err != nil {
						t.Fatal(err)
					}
					o.Heed(r)
					next = r.Position + 1
				}
			}
			spoil := func() { // all of the job's: on a slow machine there are several
				t.Helper()
				for _, path := range b.objects(t, "packs") {
					if filepath.Base(filepath.Dir(path)) == s.Job.String() {
						b.spoil(t, how, path)
					}
				}
			}
			if how == "gone" || how == "short" { // before it is looked at
				spoil()
			}
			read()
			found, all := find()
			want := map[string]int{"own": 0, "gone": 0, "short": 0}
			if n, spoilt := want[how]; spoilt && found != n || !spoilt && found != all || all == 0 {
				t.Fatalf("%d of %d chunks are found", found, all)
			}
			if how == "withdrawn" || how == "retired" {
				spoil()
				read()
				if found, _ := find(); found != 0 {
					t.Errorf("%d of %d chunks are still found", found, all)
				}
			}
			o.Heed(events.Record{Job: id.NewJob(), Fact: events.PackStored{Pack: id.Object{1}, Size: 5}}) // another domain
			if news, err := o.Index(t.Context()); news || err != nil {
				t.Errorf("news %v, %v", news, err)
			}
		})
	}
}
