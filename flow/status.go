package flow

import (
	"os"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/meter"
)

// Status is what a worker says of itself four times a second. Times add up to
// its age. Counters only grow.
type Status struct {
	Stage       string `json:"stage"`
	Worker      uint32 `json:"worker"`
	PID         int    `json:"pid"`
	Host        string `json:"host,omitempty"` // where it is not the conductor's
	Final       bool   `json:"final"`
	Held        int64  `json:"held"`
	BusyNS      int64  `json:"busy_ns"`
	StarvedNS   int64  `json:"starved_ns"`
	BlockedNS   int64  `json:"blocked_ns"`
	InParcels   uint64 `json:"in_parcels"`
	OutParcels  uint64 `json:"out_parcels"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
	Redelivered uint64 `json:"redelivered"`
	Stale       uint64 `json:"stale"`
	CPUNS       int64  `json:"cpu_ns"`          // of the process, user and system
	Waits       string `json:"waits,omitempty"` // for what, while it cannot go on: the vault is away
	Fault       *Fault `json:"fault,omitempty"`
}

func (w *Worker) status() Status {
	spent, n := w.Meter.Times(), w.Meter.Counts()
	waits, _ := w.waits.Load().(string)
	return Status{
		Waits: waits,
		Stage: w.Config.Stage, Worker: w.Config.Worker, PID: os.Getpid(), Host: w.Config.Host, Held: int64(w.courier.Held()),
		BusyNS: int64(spent[meter.Busy]), StarvedNS: int64(spent[meter.Starved]), BlockedNS: int64(spent[meter.Blocked]),
		InParcels: n.InParcels, OutParcels: n.OutParcels, InBytes: n.InBytes, OutBytes: n.OutBytes,
		Redelivered: n.Redelivered, Stale: n.Stale, CPUNS: int64(meter.CPU()),
	}
}

// Waits makes it known what the worker waits for; "": for nothing any more.
func (w *Worker) Waits(what string) {
	w.waits.Store(what)
	w.report(false)
}

// Alarm tells the conductor at once, past the queue, that the job must stop.
func (w *Worker) Alarm(f *Fault) {
	s := w.status()
	s.Fault = f
	w.publishStatus(s)
	w.courier.Flush(time.Second)
}

func (w *Worker) report(final bool) {
	s := w.status()
	s.Final = final
	w.publishStatus(s)
}

func (w *Worker) publishStatus(s Status) {
	if b, err := events.Marshal(s); err == nil {
		_ = w.courier.Say(address.StatusSubject(w.Config.Job, w.Config.Worker), b)
	}
}
