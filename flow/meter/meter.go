// Package meter keeps a worker's account of its time and of what passed through
// it: how long it worked, waited for a message (starved) and waited for room
// downstream or for its pace (blocked), and how many parcels and bytes came and went.
//
// Call [Meter.Begin] once, then [Meter.Enter] at each change from the worker's
// main goroutine; counters may be added to from any. [Meter.Times] adds up to the
// worker's age at any moment. The zero Meter is ready for Begin. What the
// account is for is told in package flow: a status goes out four times a second,
// and a stage that is never starved and never blocked is the one to give more
// workers: [Slowest] finds it among the loads of all stages.
package meter

import (
	"sync"
	"sync/atomic"
	"time"
)

// Meter is a worker's account of its time and work.
type Meter struct {
	since time.Time

	mu    sync.Mutex // of these three: a switch between states is one step
	state Activity   // what it is doing now
	mark  time.Duration
	spent [3]time.Duration

	inParcels, outParcels atomic.Uint64
	inBytes, outBytes     atomic.Uint64
	redelivered, stale    atomic.Uint64
}

// Activity is what a worker's time goes to.
type Activity int

// The activities.
const (
	Busy    Activity = iota // working
	Starved                 // waiting for a message
	Blocked                 // waiting for room downstream, or because it may not be faster
)

// Begin starts the account.
func (m *Meter) Begin(now time.Time) { m.since = now }

// Enter switches the account to state and returns the way back. It is for the
// worker's main goroutine.
func (m *Meter) Enter(state Activity) (leave func()) {
	before := m.change(state)
	return func() { m.change(before) }
}

func (m *Meter) change(state Activity) (before Activity) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.since)
	before = m.state
	m.spent[before] += now - m.mark
	m.state, m.mark = state, now
	return before
}

// Times is how long each activity has taken, the running one as of now.
func (m *Meter) Times() (spent [3]time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	spent = m.spent
	spent[m.state] += time.Since(m.since) - m.mark
	return spent
}

// In counts a parcel that came with so many bytes.
func (m *Meter) In(bytes uint64) { m.inParcels.Add(1); m.inBytes.Add(bytes) }

// Out counts a parcel that went with so many bytes.
func (m *Meter) Out(bytes uint64) { m.outParcels.Add(1); m.outBytes.Add(bytes) }

// CountPassed counts bytes that left the arena with a parcel, which counts itself.
func (m *Meter) CountPassed(bytes uint64) { m.outBytes.Add(bytes) }

// CountRedelivered counts a message that was delivered before.
func (m *Meter) CountRedelivered() { m.redelivered.Add(1) }

// CountStale counts a claim that was found to be somebody else's.
func (m *Meter) CountStale() { m.stale.Add(1) }

// Working switches the account to busy until the returned function is called.
func (m *Meter) Working() (done func()) { return m.Enter(Busy) }

// Resting switches the account to waiting for messages, for good.
func (m *Meter) Resting() { m.change(Starved) }

// Parcels is how many parcels have come in.
func (m *Meter) Parcels() uint64 { return m.inParcels.Load() }

// Counts are a meter's counters at one moment; they only grow.
type Counts struct {
	InParcels, OutParcels, InBytes, OutBytes, Redelivered, Stale uint64
}

// Counts reads the counters.
func (m *Meter) Counts() Counts {
	return Counts{
		InParcels: m.inParcels.Load(), OutParcels: m.outParcels.Load(), InBytes: m.inBytes.Load(), OutBytes: m.outBytes.Load(),
		Redelivered: m.redelivered.Load(), Stale: m.stale.Load(),
	}
}
