package crew

import (
	"time"

	"go.uber.org/zap"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/muster"
)

// visitor is a worker on another machine, as far as it is heard of. Nobody here
// started it, and nobody waits for it: it has no slot in our arena, and what it
// holds goes to another when its heartbeats end.
type visitor struct {
	status flow.Status
	heard  time.Time
	gone   bool
}

// silent is how long a visitor may say nothing before it counts as gone. One that
// speaks again is back.
const silent = 10 * time.Second

// meet enters what a visitor says. c.mu is held.
func (c *Crew) meet(s flow.Status) {
	for _, v := range c.guests {
		if v.status.Worker == s.Worker && v.status.Stage == s.Stage {
			back := v.gone && !s.Final
			v.status, v.heard = s, time.Now()
			if back {
				v.gone = false
				c.arrived(s)
			}
			if s.Final && !v.gone {
				c.left(v, "ok")
			}
			return
		}
	}
	c.guests = append(c.guests, &visitor{status: s, heard: time.Now()})
	c.arrived(s)
}

func (c *Crew) arrived(s flow.Status) {
	c.Log.Info("worker elsewhere", zap.String("stage", s.Stage), zap.Uint32("worker", s.Worker), zap.String("host", s.Host))
	c.Note(events.StageStarted{
		Stage: s.Stage, Worker: s.Worker, PID: s.PID, Host: s.Host, Transport: c.Settings.Work.TransportOf(s.Stage),
	})
}

func (c *Crew) left(v *visitor, how string) {
	v.gone = true
	s := v.status
	c.Log.Info("worker elsewhere gone", zap.String("stage", s.Stage), zap.Uint32("worker", s.Worker), zap.String("host", s.Host), zap.String("how", how))
	c.Note(events.StageStopped{
		Stage: s.Stage, Worker: s.Worker, PID: s.PID, Exit: how, BusyNS: s.BusyNS, StarvedNS: s.StarvedNS, BlockedNS: s.BlockedNS,
		InParcels: s.InParcels, OutParcels: s.OutParcels, InBytes: s.InBytes, OutBytes: s.OutBytes, Redelivered: s.Redelivered, Stale: s.Stale,
	})
}

// Look notices visitors that have gone without a word. over says that the job has
// ended: then all have.
func (c *Crew) Look(now time.Time, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.guests {
		switch {
		case v.gone:
		case over:
			c.left(v, "the job is over")
		case now.Sub(v.heard) > silent:
			c.left(v, "silent")
		}
	}
}

// Visitors counts the workers elsewhere that take part now.
func (c *Crew) Visitors() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.guests {
		if !v.gone {
			n++
		}
	}
	return n
}

// visit adds a visitor to its stage.
func (u *Stage) visit(v *visitor) {
	if !v.gone {
		u.Workers++
		u.Elsewhere++
		if v.status.Waits != "" {
			u.Waits = v.status.Waits
		}
	}
	u.sum(v.status)
}

// Number gives out a block of numbers for workers elsewhere.
func (c *Crew) Number() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocks++
	return muster.FirstBlock + (c.blocks-1)*muster.Block
}
