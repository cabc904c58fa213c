// Package metrics gives the figures of a job their names for Prometheus.
//
// Make a [Metrics] with a function that says how the job stands, [Metrics.Serve] it on
// an address while the job runs, and [Metrics.WriteFile] it at the end, for the textfile
// collector of the node exporter: a scrape may miss a short job, the file does not.
//
// All names begin with millrace_ and are in base units, seconds and bytes; counters end
// in _total and count from the job's begin. docs/operator.md lists them, and a test
// compares. The job's id is a label of millrace_job_info alone, so that series do not
// multiply with every run. Nothing here is measured twice: what a scrape sees is the
// board.Report that millrace top shows.
package metrics

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace-backup/millrace/conductor/board"
)

// Metrics are the series of one job.
type Metrics struct {
	Version string
	now     func() board.Report
	names   map[string]*prometheus.Desc
	gather  *prometheus.Registry
}

// outcomes are the ends that a job can have; all have a series, so that a rule can
// ask for each.
func outcomes() []string { return []string{"done", "part", "busy", "failed", "interrupted"} }

// New makes the series of a job. now is how it stands; a Report without a job says
// that it has not begun.
func New(version string, now func() board.Report) *Metrics {
	m := &Metrics{Version: version, now: now, names: map[string]*prometheus.Desc{}, gather: prometheus.NewRegistry()}
	for _, d := range descriptions() {
		m.names[d.name] = prometheus.NewDesc("millrace_"+d.name, d.help, d.labels, nil)
	}
	m.gather.MustRegister(m)
	return m
}

type description struct {
	name, help string
	labels     []string
}

// descriptions is the table of all metrics; docs/operator.md has the same one.
func descriptions() []description {
	stage := []string{"stage"}
	return []description{
		{"job_info", "The job that the other series are of; always 1.", []string{"job", "vault", "version"}},
		{"job_running", "1 while the job runs, 0 when it has ended.", nil},
		{"job_outcome", "1 for the outcome that the job has had, 0 for the others.", []string{"outcome"}},
		{"job_start_timestamp_seconds", "When the job began, in Unix time.", nil},
		{"job_duration_seconds", "How long the job has run.", nil},
		{"job_waiting_for_vault", "1 while the vault is away and waited for.", nil},
		{"job_disk_bytes", "Size of the disks that the job protects.", nil},
		{"job_processed_bytes_total", "Bytes of the disks that are dealt with, by what was found out; at the end they add up to job_disk_bytes.", []string{"kind"}},
		{"job_stored_bytes_total", "Bytes of packs and tables brought into the vault.", nil},
		{"job_scalings_total", "Changes of a stage's number of workers.", nil},
		{"guest_last_success_timestamp_seconds", "When the newest point of a guest was taken, in Unix time, by this job or an earlier one.", []string{"guest", "name"}},
		{"guest_failed", "1 if the guest gets no point from this job.", []string{"guest", "name"}},
		{"guest_scan_info", "How a guest's disks were read, full or incremental, and why so; always 1, once it has its point.", []string{"guest", "name", "scan", "reason"}},
		{"stage_workers", "Worker processes of a stage.", stage},
		{"stage_time_seconds_total", "Time of a stage's workers, by what it went to: busy, starved (nothing came in), blocked (no room for what goes out).", []string{"stage", "state"}},
		{"stage_cpu_seconds_total", "Processor time of a stage's workers.", stage},
		{"stage_parcels_total", "Parcels that a stage took in and gave out.", []string{"stage", "direction"}},
		{"stage_bytes_total", "Bytes of parcels that a stage took in and gave out.", []string{"stage", "direction"}},
		{"stage_queue_parcels", "Parcels that wait for a stage or are with it.", stage},
		{"stage_restarts_total", "Workers of a stage that took the place of one that died.", stage},
		{"stage_redelivered_total", "Messages that a stage was given again.", stage},
		{"stage_stale_total", "Parcels that a stage dropped, because their slot had moved on.", stage},
		{"arena_slots", "Slots of the shared memory, by state.", []string{"pool", "state"}},
		{"arena_slot_bytes", "Size of a slot.", []string{"pool"}},
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range m.names {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	r := m.now()
	if r.Job.IsZero() {
		return
	}
	c := collection{m, to}
	c.job(r)
	for _, s := range r.Stages {
		c.stage(s)
	}
	for _, p := range r.Arena {
		c.gauge("arena_slots", float64(p.Free), p.Pool, "free")
		c.gauge("arena_slots", float64(p.Filling), p.Pool, "filling")
		c.gauge("arena_slots", float64(p.Full), p.Pool, "full")
		c.gauge("arena_slot_bytes", float64(p.SlotSize), p.Pool)
	}
}

var pointID = regexp.MustCompile(`point [0-9a-f]{8}`)

type collection struct {
	*Metrics
	to chan<- prometheus.Metric
}

func (c collection) gauge(name string, v float64, labels ...string) {
	c.to <- prometheus.MustNewConstMetric(c.names[name], prometheus.GaugeValue, v, labels...)
}

func (c collection) counter(name string, v float64, labels ...string) {
	c.to <- prometheus.MustNewConstMetric(c.names[name], prometheus.CounterValue, v, labels...)
}

func (c collection) job(r board.Report) {
	c.gauge("job_info", 1, r.Job.String(), r.Vault.String(), c.Version)
	c.gauge("job_running", truth(r.Outcome == ""))
	for _, o := range outcomes() {
		c.gauge("job_outcome", truth(r.Outcome == o), o)
	}
	c.gauge("job_start_timestamp_seconds", unix(r.Began))
	c.gauge("job_duration_seconds", r.Elapsed)
	c.gauge("job_waiting_for_vault", truth(r.Waits != ""))
	c.gauge("job_disk_bytes", float64(r.Total))
	for _, k := range []struct {
		kind string
		n    int64
	}{{"zero", r.Zero}, {"unchanged", r.Unchanged}, {"known", r.Known}, {"new", r.New}} {
		c.counter("job_processed_bytes_total", float64(k.n), k.kind)
	}
	c.counter("job_stored_bytes_total", float64(r.Stored))
	c.counter("job_scalings_total", float64(r.Scalings))
	seen := map[string]bool{}
	for _, g := range r.Guests {
		id := g.Guest.String()
		if seen[id] { // the same series twice would spoil the whole scrape
			continue
		}
		seen[id] = true
		if !g.LastSuccess.IsZero() {
			c.gauge("guest_last_success_timestamp_seconds", unix(g.LastSuccess), id, strings.ToValidUTF8(g.Name, "?"))
		}
		c.gauge("guest_failed", truth(g.Failed), id, strings.ToValidUTF8(g.Name, "?"))
		if g.Scan != "" { // ids of points would make it another series each time
			c.gauge("guest_scan_info", 1, id, strings.ToValidUTF8(g.Name, "?"), g.Scan, strings.ToValidUTF8(pointID.ReplaceAllString(g.ScanReason, "the point before"), "?"))
		}
	}
}

func (c collection) stage(s board.Stage) {
	c.gauge("stage_workers", float64(s.Workers), s.Stage)
	c.counter("stage_time_seconds_total", s.BusyS, s.Stage, "busy")
	c.counter("stage_time_seconds_total", s.StarvedS, s.Stage, "starved")
	c.counter("stage_time_seconds_total", s.BlockedS, s.Stage, "blocked")
	c.counter("stage_cpu_seconds_total", s.CPUS, s.Stage)
	c.counter("stage_parcels_total", float64(s.InParcels), s.Stage, "in")
	c.counter("stage_parcels_total", float64(s.OutParcels), s.Stage, "out")
	c.counter("stage_bytes_total", float64(s.InBytes), s.Stage, "in")
	c.counter("stage_bytes_total", float64(s.OutBytes), s.Stage, "out")
	c.gauge("stage_queue_parcels", float64(s.Queue), s.Stage)
	c.counter("stage_restarts_total", float64(s.Restarts), s.Stage)
	c.counter("stage_redelivered_total", float64(s.Redelivered), s.Stage)
	c.counter("stage_stale_total", float64(s.Stale), s.Stage)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// Serve answers at http://addr/metrics until stop is called. addr is HOST:PORT; with
// no host it is all addresses of the machine. at is where it really listens.
func (m *Metrics) Serve(addr string) (at string, stop func(), err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.gather, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l) // until Close: a listener of our own does not fail
	}()
	return l.Addr().String(), func() { _ = s.Close(); <-ended }, nil
}

// WriteFile writes the series as a file for the textfile collector, whole or not at
// all; what was at path is replaced.
func (m *Metrics) WriteFile(path string) error {
	if path == "" {
		return errors.New("write metrics: no file was named")
	}
	if err := prometheus.WriteToTextfile(path, m.gather); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
