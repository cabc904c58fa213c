package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

var update = flag.Bool("update", false, "rewrite golden files")

// log is a ledger written by hand: each call of at is one segment.
type log struct {
	records []events.Record
	next    uint64
}

func at(seconds float64) time.Time {
	return time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

func (l *log) at(seconds float64, job id.Job, facts ...events.Fact) {
	for _, f := range facts {
		r := events.NewRecord(at(seconds), job, f)
		r.Position = l.next
		l.records = append(l.records, r)
	}
	l.next++
}

func (l *log) all() iter.Seq2[events.Record, error] { return of(l.records) }

func of(records []events.Record) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

var (
	job, other = id.Job{0x01, 0xa2, 0x04, 1}, id.Job{0x01, 0xa2, 0x05, 2}
	web, db    = id.Guest{0xaa, 0xbb, 0xcc, 1}, id.Guest{0xdd, 0xee, 2}
)

func started(sources ...string) events.JobStarted {
	return events.JobStarted{Verb: "backup", Host: "node1", PID: 100, Version: "v0.1.0", OS: "linux/amd64", CPUs: 2, By: "backup", Sources: sources,
		Settings: map[string]string{"codec": "auto", "freeze": "prefer", "scan": "auto", "transport": "claim", "parallel.seal": "2", "parallel.reader": "1"}}
}

// plan is what the snapshot stage says of a guest with one disk of 64 MiB.
func plan(g id.Guest, name string, number uint32) []events.Fact {
	disk := id.NewDisk(g, "root.vhdx")
	return []events.Fact{
		events.GuestInspected{Guest: g, Name: name, Driver: "folder", Source: "/srv/" + name,
			Disks:       []events.DiskInfo{{Disk: disk, Key: "root.vhdx", Path: "/srv/" + name + "/root.vhdx", Format: "vhdx", Variant: "dynamic", VirtualSize: 64 << 20}},
			Unprotected: []events.Unprotected{{Key: "raw.dev", Reason: "pass-through device"}}},
		events.SnapshotTaken{Guest: g, At: events.At(at(0.2)), Consistency: "crash-consistent", Method: "reflink", Policy: "prefer", Reason: "a writer holds the disk", FreezeNS: 3e6, RecheckPercent: 1},
		events.ChangesResolved{Guest: g, Disk: disk, Number: number, Mode: "full", Source: "extents", Reason: "first point of this guest", Parcels: 8, ReadBytes: 32 << 20, DiskBytes: 64 << 20},
	}
}

func table(n byte, job id.Job) events.TableRef {
	return events.TableRef{Name: id.Object{n}, Job: job, Size: 1000, Rows: 10, Root: events.Hash{n}}
}

// commit is what the indexer says when a guest is complete.
func commit(g id.Guest, name string, number uint32) []events.Fact {
	disk, chunks, extents := id.NewDisk(g, "root.vhdx"), table(byte(0x40+number), job), table(byte(0x80+number), job)
	return []events.Fact{
		events.ChunksStored{Table: chunks, New: 200, Known: 100, NewBytes: 20 << 20, StoredBytes: 10 << 20},
		events.ExtentsMapped{Guest: g, Disk: disk, Table: extents, Chunks: chunks, Base: true},
		events.DiskSealed{Guest: g, Disk: disk, Number: number, Size: 64 << 20, ZeroBytes: 32 << 20, UnchangedBytes: 4 << 20, KnownBytes: 8 << 20, NewBytes: 20 << 20,
			StoredBytes: 10 << 20, ReadBytes: 32 << 20, NewChunks: 200, KnownChunks: 100, Parcels: 8, Reread: 1, Root: extents.Root},
		events.PointCommitted{Point: id.NewPoint(job, g), Guest: g, GuestName: name, Driver: "folder", Source: "/srv/" + name, Time: events.At(at(0.2)), Consistency: "crash-consistent",
			Scan: "full", ScanReason: "first point of this guest", DiskBytes: 64 << 20, ReadBytes: 32 << 20, NewBytes: 20 << 20, StoredBytes: 10 << 20,
			Disks:       []events.PointDisk{{Disk: disk, Key: "root.vhdx", Size: 64 << 20, Root: extents.Root, Extents: []events.TableRef{extents}, Chunks: []events.TableRef{chunks}}},
			Unprotected: []events.Unprotected{{Key: "raw.dev", Reason: "pass-through device"}}},
	}
}

func start(stage string, worker, restart uint32) events.StageStarted {
	return events.StageStarted{Stage: stage, Worker: worker, PID: 200 + int(worker), Host: "node1", Restart: restart, Transport: "claim"}
}

// stop is a worker's end; the three times are in milliseconds.
func stop(stage string, worker, restart uint32, exit string, busy, starved, blocked int64) events.StageStopped {
	return events.StageStopped{Stage: stage, Worker: worker, PID: 200 + int(worker), Exit: exit, Restarts: restart, BusyNS: busy * 1e6, StarvedNS: starved * 1e6, BlockedNS: blocked * 1e6,
		InParcels: 8, OutParcels: 8, InBytes: 32 << 20, OutBytes: 10 << 20, Redelivered: 1, CPUNS: busy * 9e5, MaxRSS: 50 << 20}
}

// end sums up guests that have a point, each with two tables and one pack of 10 MiB.
func end(outcome string, points int64, guests ...events.GuestOutcome) events.JobFinished {
	return events.JobFinished{Outcome: outcome, Guests: guests, DiskBytes: points * 64 << 20, ReadBytes: points * 32 << 20, ZeroBytes: points * 32 << 20, UnchangedBytes: points * 4 << 20,
		KnownBytes: points * 8 << 20, NewBytes: points * 20 << 20, StoredBytes: points * (10<<20 + 2000), DurationNS: 5e9, Settings: map[string]string{"codec": "auto", "parallel.seal": "3"}}
}

func done(g id.Guest, name string) events.GuestOutcome {
	return events.GuestOutcome{Guest: g, Name: name, Outcome: "done", Point: id.NewPoint(job, g)}
}

func pack(n byte) events.PackStored {
	return events.PackStored{Pack: id.Object{n, 0xfe}, Size: 10 << 20, Chunks: 200, RawBytes: 20 << 20}
}

// scenarios are jobs as ledgers hold them, each with facts of another job between.
func scenarios() map[string]*log {
	m := map[string]*log{}
	ok := &log{}
	ok.at(-9, id.Job{}, events.VaultCreated{})
	ok.at(0, job, started("folder:/srv/web"))
	ok.at(0.3, job, plan(web, "web", 0)...)
	ok.at(0.4, other, started("folder:/srv/else"))
	ok.at(1, job, start("uploader", 1, 0), start("seal", 2, 0), start("seal", 3, 0), start("reader", 4, 0))
	ok.at(3, job, pack(1))
	ok.at(3.1, job, commit(web, "web", 0)...)
	ok.at(3.2, job, pack(1), table2Twice()) // facts said twice
	ok.at(3.3, job, events.SnapshotReleased{Guest: web, Verdict: "unchanged", HeldNS: 3e9})
	ok.at(5, job, events.StageScaled{Stage: "seal", From: 2, To: 3, By: "auto", Why: "it limits the job"}, stop("reader", 4, 0, "ok", 800, 200, 3000),
		stop("seal", 2, 0, "ok", 3800, 150, 50), stop("seal", 3, 0, "ok", 3600, 300, 100), stop("uploader", 1, 0, "ok", 500, 3500, 0),
		end("done", 1, done(web, "web")), events.StateHashed{Version: 1, Before: 7, Hash: events.Hash{0xab}})
	fin := ok.records[len(ok.records)-2].Fact.(events.JobFinished)
	fin.Stages = []events.StageAccount{
		{Stage: "reader", Workers: 1, Most: 1, Processes: 1, QueueMax: 12, QueueNS: 26e9, WatchedNS: 4e9},
		{Stage: "seal", Workers: 3, Most: 3, Processes: 3, QueueMax: 8, QueueNS: 10e9, WatchedNS: 4e9},
		{Stage: "uploader", Workers: 1, Most: 1, Processes: 1, WatchedNS: 4e9},
	}
	ok.records[len(ok.records)-2].Fact = fin
	m["done"] = ok

	killed := &log{}
	killed.at(0, job, started("folder:/srv/web", "folder:/srv/db"))
	killed.at(0.3, job, append(plan(web, "web", 0), plan(db, "db\x1b[31m", 1)...)...)
	killed.at(1, job, start("uploader", 1, 0), start("seal", 2, 0), start("seal", 3, 0), start("reader", 4, 0),
		stop("seal", 2, 0, "signal: killed", 400, 100, 0), start("seal", 5, 1), stop("seal", 3, 0, "signal: segmentation fault", 400, 100, 0), start("seal", 6, 1),
		stop("seal", 5, 1, "exit status 2", 10, 0, 0), start("seal", 7, 2))
	killed.at(3, job, pack(1))
	killed.at(3.1, job, commit(web, "web", 0)...)
	killed.at(4, job, events.SnapshotReleased{Guest: db, Verdict: "changed", Detail: "root.vhdx was written to", HeldNS: 3.5e9}, events.SnapshotReleased{Guest: web, Verdict: "unchanged", HeldNS: 3e9})
	killed.at(75, job, stop("reader", 4, 0, "ok", 800, 200, 3000), stop("seal", 6, 1, "ok", 800, 150, 50), stop("seal", 7, 2, "ok", 600, 300, 100), stop("uploader", 1, 0, "signal: killed", 3900, 100, 0),
		end("part", 1, done(web, "web"), events.GuestOutcome{Guest: db, Name: "db\x1b[31m", Outcome: "failed", Code: "source-changed", Op: "read disk", Object: "/srv/db/root.vhdx",
			Cause: "the disk was written to while it was read", Remedy: "stop the guest, or back up a snapshot of it"},
			events.GuestOutcome{Name: "folder:/srv/nowhere", Outcome: "failed", Code: "not-found", Op: "inspect", Object: "/srv/nowhere", Cause: "no such file", Remedy: "check the name"}))
	m["killed-and-failed"] = killed

	died := &log{}
	died.at(0, job, started("folder:/srv/web"))
	died.at(0.3, job, plan(web, "web", 0)...)
	again := plan(web, "web", 0)
	taken := again[1].(events.SnapshotTaken)
	taken.At = events.At(at(2))
	died.at(2.1, job, start("reader", 4, 0), taken)
	died.at(3, job, pack(1), pack(2), events.Unknown{Name: "GuestTeleported", Body: []byte{0x81, 0xa2, 'b', 'y', 0xc4, 1, 0xfe}})
	died.at(3.5, job, pack(3))
	died.at(900, other, started("folder:/srv/web"), events.JobFenced{Fenced: job, Guests: []id.Guest{web}, Lease: 3, Host: "node1", Why: "no heartbeat for 10 min"})
	m["unfinished"] = died

	stopped := &log{}
	stopped.at(0, job, started("folder:/srv/web"))
	stopped.at(0.3, job, plan(web, "web", 0)...)
	f := end("interrupted", 0, events.GuestOutcome{Guest: web, Name: "web", Outcome: "failed", Code: "interrupted", Op: "back up", Object: "/srv/vault", Cause: "interrupted", Remedy: "run the job again"})
	f.Cause = "back up /srv/vault: interrupted"
	stopped.at(2, job, start("seal", 2, 0), start("reader", 4, 0), stop("reader", 4, 0, "exit status 3", 10, 90, 0), stop("seal", 2, 0, "exit status 3", 0, 0, 0), f)
	m["interrupted"] = stopped

	wrong := &log{}
	wrong.at(0.3, job, plan(web, "web", 0)...)
	facts := commit(web, "web", 0)
	sealed, point := facts[2].(events.DiskSealed), facts[3].(events.PointCommitted)
	sealed.NewBytes -= 4096
	sealed.Parcels = 7
	sealed.Root = events.Hash{9}
	point.DiskBytes++
	point.Disks = append(point.Disks, events.PointDisk{Disk: id.Disk{5}, Key: "second", Size: 10})
	wrong.at(3, job, facts[0], facts[1], sealed, point)
	wrong.at(4, job, started("folder:/srv/web"), end("done", 1, done(web, "web"), events.GuestOutcome{Guest: db, Name: "db", Outcome: "done"}))
	m["contradictions"] = wrong
	return m
}

func table2Twice() events.Fact { return commit(web, "web", 0)[0] }

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test ./audit -update writes it anew); got:\n%s", path, got)
	}
}

func TestTimelines(t *testing.T) {
	for name, l := range scenarios() {
		t.Run(name, func(t *testing.T) {
			a, err := Timeline(l.all(), job)
			if err != nil {
				t.Fatal(err)
			}
			var text, form bytes.Buffer
			if err := a.WriteText(&text, time.UTC); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", text.Bytes())
			b, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Indent(&form, b, "", " "); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", append(form.Bytes(), '\n'))
			if strings.ContainsFunc(text.String(), func(r rune) bool { return r < ' ' && r != '\n' }) {
				t.Error("a control character reaches the terminal")
			}
		})
	}
}

// What came over the wire tells the same as what was put in by hand.
func TestTimelineOfDecodedRecords(t *testing.T) {
	for name, l := range scenarios() {
		body, err := events.EncodeRecords(l.records)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := events.DecodeRecords(body)
		if err != nil {
			t.Fatal(err)
		}
		for n := range decoded {
			decoded[n].Position = l.records[n].Position
		}
		a, err := Timeline(of(decoded), job)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := a.WriteText(&text, time.UTC); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
		if err != nil || !bytes.Equal(text.Bytes(), want) {
			t.Errorf("%s: decoded records tell another story (%v):\n%s", name, err, text.Bytes())
		}
	}
}

// The promise to scripts, key by key.
func TestJSONKeys(t *testing.T) {
	a, err := Timeline(scenarios()["killed-and-failed"].all(), job)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Job, Outcome string
		Facts        []map[string]any
		Stages       []map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Job != job.String() || got.Outcome != "part" || len(got.Stages) != 7 || len(got.Facts) != len(a.Facts) {
		t.Fatalf("job %s, outcome %s, %d stages, %d facts", got.Job, got.Outcome, len(got.Stages), len(got.Facts))
	}
	for _, s := range got.Stages {
		for _, key := range []string{"stage", "pid", "busy_s", "starved_s", "blocked_s", "in_parcels", "out_parcels", "restarts"} {
			if _, ok := s[key]; !ok {
				t.Errorf("stage without %s: %v", key, s)
			}
		}
	}
	for _, f := range got.Facts {
		for _, key := range []string{"position", "time", "type"} {
			if _, ok := f[key]; !ok {
				t.Errorf("fact without %s: %v", key, f)
			}
		}
		if f["type"] == "PointCommitted" && (f["time"] != "2026-11-22T23:00:03.1Z" || f["fact_time"] != "2026-11-22T23:00:00.200000Z") {
			t.Errorf("the point's own time hides the fact's: %v %v", f["time"], f["fact_time"])
		}
	}
}

// Fields that a later version added are shown too.
func TestLaterFieldsAreShown(t *testing.T) {
	later, err := events.Marshal([]any{"StageScaled", at(1).UnixMicro(), job, map[string]any{"stage": "seal", "to": 3, "type": "warm", "sum": []byte{0xab}, "deep": []any{map[string]any{"x": []byte{1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := events.DecodeRecord(later)
	if err != nil {
		t.Fatal(err)
	}
	b, err := factJSON(r)
	want := `{"position":0,"time":"2026-11-22T23:00:01Z","type":"StageScaled","stage":"seal","from":0,"to":3,"by":"","why":"","at":null,"deep":[{"x":"01"}],"sum":"ab","fact_type":"warm"}`
	if err != nil || string(b) != want {
		t.Errorf("got %s (%v)\nwant %s", b, err, want)
	}
	odd := events.Record{Kind: "New", Time: at(1), Fact: events.Unknown{Name: "New", Body: []byte{0x81, 0x01, 0x02}}} // a map whose key is a number
	if b, err := factJSON(odd); err != nil || !strings.Contains(string(b), `"body":"810102"`) {
		t.Errorf("got %s (%v)", b, err)
	}
}

func TestNoSuchJob(t *testing.T) {
	if _, err := Timeline(scenarios()["done"].all(), id.Job{7}); !errors.Is(err, catalog.ErrNone) {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	if _, err := Timeline(func(yield func(events.Record, error) bool) { yield(events.Record{}, broken) }, job); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0.000 s", 1500 * time.Microsecond: "0.002 s", 12345 * time.Millisecond: "12.3 s", 59990 * time.Millisecond: "1 min 00 s",
		time.Minute: "1 min 00 s", 62 * time.Minute: "1 h 02 min"} {
		if got := duration(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
