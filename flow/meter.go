package flow

import (
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Meter is a worker's account of its time and work.
type Meter struct {
	since time.Time

	mu    sync.Mutex // of these three: a switch between states is one step
	state activity   // what it is doing now
	mark  time.Duration
	spent [3]time.Duration

	held                  atomic.Int64
	inParcels, outParcels atomic.Uint64
	inBytes, outBytes     atomic.Uint64
	redelivered, stale    atomic.Uint64
}

type activity int

const (
	busy    activity = iota // working
	starved                 // waiting for a message
	blocked                 // waiting for room downstream
)

func (m *Meter) begin(now time.Time) { m.since = now }

// enter switches the account to state and returns the way back. It is for the
// worker's main goroutine.
func (m *Meter) enter(state activity) (leave func()) {
	before := m.change(state)
	return func() { m.change(before) }
}

func (m *Meter) change(state activity) (before activity) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.since)
	before = m.state
	m.spent[before] += now - m.mark
	m.state, m.mark = state, now
	return before
}

// times is how long each activity has taken, the running one as of now.
func (m *Meter) times() (spent [3]time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	spent = m.spent
	spent[m.state] += time.Since(m.since) - m.mark
	return spent
}

func (m *Meter) in(bytes uint64)  { m.inParcels.Add(1); m.inBytes.Add(bytes) }
func (m *Meter) out(bytes uint64) { m.outParcels.Add(1); m.outBytes.Add(bytes) }

// CountIn counts a parcel that came, for stages that do not go through Pump.
func (m *Meter) CountIn(bytes uint64) { m.in(bytes) }

// CountPassed counts bytes that left the arena with a parcel, which counts itself.
func (m *Meter) CountPassed(bytes uint64) { m.outBytes.Add(bytes) }

// Working switches the account to busy until the returned function is called.
func (m *Meter) Working() (done func()) { return m.enter(busy) }

// Resting switches the account to waiting for messages, for good.
func (m *Meter) Resting() { m.change(starved) }

// Status is what a worker says of itself four times a second. Times add up to
// its age. Counters only grow.
type Status struct {
	Stage       string `json:"stage"`
	Worker      uint32 `json:"worker"`
	PID         int    `json:"pid"`
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
	Fault       *Fault `json:"fault,omitempty"`
}

func (w *Worker) status() Status {
	m := &w.Meter
	spent := m.times()
	return Status{
		Stage: w.Config.Stage, Worker: w.Config.Worker, PID: os.Getpid(), Held: m.held.Load(),
		BusyNS: int64(spent[busy]), StarvedNS: int64(spent[starved]), BlockedNS: int64(spent[blocked]),
		InParcels: m.inParcels.Load(), OutParcels: m.outParcels.Load(),
		InBytes: m.inBytes.Load(), OutBytes: m.outBytes.Load(),
		Redelivered: m.redelivered.Load(), Stale: m.stale.Load(),
	}
}

// Parcels is how many parcels have come in.
func (m *Meter) Parcels() uint64 { return m.inParcels.Load() }
