package metrics

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/id"
)

func report() board.Report {
	g := board.Guest{Scan: "incremental", ScanReason: "the bitmap tells what has changed since point 0a1b2c3d", Guest: id.Guest{7}, Name: "web\xff\n\"1", LastSuccess: time.Unix(1790000000, 5e8)}
	return board.Report{
		Type: "summary", Job: id.Job{1}, Outcome: "part", Total: 10, Zero: 1, Unchanged: 2, Known: 3, New: 4, Done: 10, Stored: 9, Began: time.Unix(1790000000, 0), Elapsed: 2.5, Scalings: 3,
		Guests: []board.Guest{g, g, {Guest: id.Guest{8}, Name: "new", Failed: true}},
		Stages: []board.Stage{{Stage: "seal", Workers: 2, BusyS: 1.5, StarvedS: 0.5, CPUS: 1, InBytes: 100, OutBytes: 50, InParcels: 3, OutParcels: 2, Queue: 5, Restarts: 1}},
		Arena:  []board.Pool{{Pool: "raw", SlotSize: 4096, Free: 5, Filling: 1, Full: 2}},
	}
}

// What a scrape sees: every metric of the table, with the report's numbers.
func TestScrape(t *testing.T) {
	r := board.Report{}
	m := New("v1", func() board.Report { return r })
	at, stop, err := m.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if text := get(t, "http://"+at+"/metrics"); strings.Contains(text, "millrace") {
		t.Errorf("before the job has begun: %s", text)
	}
	r = report()
	text := get(t, "http://"+at+"/metrics")
	for _, want := range []string{
		`millrace_job_outcome{outcome="part"} 1`, `millrace_job_outcome{outcome="done"} 0`, `millrace_job_running 0`, `millrace_job_duration_seconds 2.5`,
		`millrace_job_processed_bytes_total{kind="known"} 3`, `millrace_job_stored_bytes_total 9`, `millrace_job_scalings_total 3`,
		`millrace_stage_time_seconds_total{stage="seal",state="busy"} 1.5`, `millrace_stage_bytes_total{direction="out",stage="seal"} 50`, `millrace_stage_queue_parcels{stage="seal"} 5`,
		`millrace_arena_slots{pool="raw",state="full"} 2`, `millrace_guest_failed{guest="08000000-0000-0000-0000-000000000000",name="new"} 1`,
		`name="web?\n\"1"} 1.7900000005e+09`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for _, d := range descriptions() {
		if !strings.Contains(text, "# HELP millrace_"+d.name+" ") {
			t.Errorf("millrace_%s is in the table and not in the scrape", d.name)
		}
	}
	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	path := filepath.Join(t.TempDir(), "millrace.prom")
	if err := m.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != text {
		t.Errorf("the file is not what is served: %v\n%s", err, b)
	}
	if err := m.WriteFile(filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("a file in no folder was written")
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	a, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", a.Status, err)
	}
	return string(b)
}

// The operator's page has the same table.
func TestTheManualListsEveryMetric(t *testing.T) {
	page, err := os.ReadFile("../../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `millrace_([a-z_]+)` \\| ([^|]*) \\| ([^|]*) \\|").FindAllStringSubmatch(string(page), -1) {
		listed[row[1]] = row[2] + "|" + row[3]
	}
	for _, d := range descriptions() {
		var labels []string
		for _, l := range d.labels {
			labels = append(labels, "`"+l+"`")
		}
		if want := strings.Join(labels, ", ") + "|" + d.help; listed[d.name] != want {
			t.Errorf("| `millrace_%s` | %s |\n(the manual says %q)", d.name, strings.Replace(want, "|", " | ", 1), listed[d.name])
		}
		delete(listed, d.name)
	}
	for name := range listed {
		t.Errorf("the manual lists millrace_%s, which there is not", name)
	}
}
