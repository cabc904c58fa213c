package main

import (
	"net"
	"sync"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/conductor"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/conductor/metrics"
)

// measure lets Prometheus see the job that o is for: at an address while it runs, and
// in a file at the end, where these are given. The caller calls told with what came of
// the job.
func (a *app) measure(addr, file string, o *conductor.Options) (told func(conductor.Summary), err error) {
	if addr == "" && file == "" {
		return func(conductor.Summary) {}, nil
	}
	var mu sync.Mutex
	var last board.Report
	m := metrics.New(version().Version, func() board.Report { mu.Lock(); defer mu.Unlock(); return last })
	stop := func() {}
	if addr != "" {
		if _, err := net.ResolveTCPAddr("tcp", addr); err != nil {
			return nil, fault.Usage("--metrics %s: %w", addr, err)
		}
		at, end, err := m.Serve(addr)
		if err != nil { // another job has the port: the backup is what counts
			a.Note("millrace: no metrics at %s: %v; the job goes on without", addr, err)
		} else {
			stop = end
			a.Note("millrace: metrics at http://%s/metrics", at)
		}
	}
	see := o.Observe
	o.Observe = func(u conductor.Update) {
		mu.Lock()
		last = u.Report
		mu.Unlock()
		see(u)
	}
	return func(s conductor.Summary) {
		defer stop()
		if s.Job.IsZero() || s.Report.Outcome == "" {
			return // it never began: the file stays what it was
		}
		mu.Lock()
		last = s.Report
		mu.Unlock()
		if file == "" {
			return
		}
		if err := m.WriteFile(file); err != nil { // the backup is what counts
			a.Note("millrace: %v", err)
		}
	}, nil
}
