package flow

import (
	"context"
	"slices"

	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/id"
	"github.com/nats-io/nats.go/jetstream"
)

// How bytes travel, in Work.Transport.
const (
	Claim  = "claim"  // in the arena wherever both ends are on one host
	Inline = "inline" // in the messages, always
)

// Remotable lists the stages that may run on other machines. Snapshot and indexer
// hold what there is one of, and delta asks the table of durable chunks that the
// indexer keeps in the conductor's arena.
func Remotable() []string { return []string{Reader, Chunker, Seal, Uploader} }

// Inline reports whether the parcels that wait for a stage have their bytes with
// them: because the job wants that, or because one end of the hop may be on
// another machine. What has left shared memory does not go back: raw bytes that
// came inline go on inline until seal has made new ones of them.
func (w *Work) Inline(stage string) bool {
	apart := func(s string) bool { return w.Transport == Inline || slices.Contains(w.Remote, s) }
	switch stage {
	case Chunker:
		return apart(Reader) || apart(Chunker)
	case Delta:
		return w.Inline(Chunker) || apart(Delta)
	case Seal:
		return w.Inline(Delta) || apart(Seal)
	case Uploader:
		return apart(Seal) || apart(Uploader)
	}
	return false
}

// Inlines lists the stages whose parcels have their bytes with them.
func (w *Work) Inlines() (out []string) {
	for _, s := range Stages() {
		if w.Inline(s) {
			out = append(out, s)
		}
	}
	return out
}

// TransportOf says how the bytes that a stage takes come to it, or those it makes leave.
func (w *Work) TransportOf(stage string) string {
	if w.Inline(stage) || slices.ContainsFunc(Targets(stage), w.Inline) {
		return Inline
	}
	return Claim
}

// BytesQueued bounds the parcels that wait for a stage or are held by it with their
// bytes in them: what a pack gathers, and some more. It bounds the memory of the
// server, too: four stages, 4 MiB each.
const BytesQueued = 16

// box is where messages for a stage are posted.
func (w *Worker) box(stage string) courier.Box {
	if w.Config.Work.Inline(stage) {
		return courier.Box{Stream: address.ByteStream(w.Config.Job), Subject: address.ByteSubject(w.Config.Job, stage), Limit: BytesQueued}
	}
	return courier.Box{Stream: address.Stream(w.Config.Job), Subject: address.Subject(w.Config.Job, stage)}
}

// stow gives a parcel its bytes to take along, if this hop wants them: m is then a
// message of its own, and the claim stays behind with the caller. False: the claim
// it came with was somebody else's by the time its bytes had been copied.
func (w *Worker) stow(d *Delivery, to string, m *Message) (b []byte, ok bool, err error) {
	p := m.Parcel
	if p == nil || p.Claim.Length == 0 {
		b, err = m.Encode()
		return b, true, err
	}
	c, out := p.Claim, *p
	switch {
	case c.IsZero(): // they came that way and go on that way
		m = &Message{Parcel: p, Payload: d.Payload}
	case w.Config.Work.Inline(to):
		out.Claim = arena.Claim{Length: c.Length}
		m = &Message{Parcel: &out, Payload: w.Arena.Bytes(c.Slot)[:c.Length]}
	}
	if b, err = m.Encode(); err != nil {
		return nil, false, err
	}
	if m.Payload != nil && !c.IsZero() && c == d.claim && !d.Live() {
		return nil, false, nil
	}
	return b, true, nil
}

// Pressed reports whether seal waits for room that only this uploader can make, by
// handing on what it holds: held parcels. idle says that no other is at hand;
// while there is one it is taken first: the pack grows, and that frees nothing.
func (w *Worker) Pressed(ctx context.Context, held int, idle bool) bool {
	if w.Config.Work.Inline(Uploader) {
		if held >= BytesQueued*3/4 || !idle || held == 0 {
			return held >= BytesQueued*3/4
		}
		n, err := w.Queued(ctx)
		return err == nil && n[Uploader] >= BytesQueued
	}
	free, _, _ := w.Arena.Usage(arena.Sealed)
	return free == 0 && (idle || held >= w.Arena.Shape().SealedSlots*3/4)
}

// Queued counts the messages of the job that wait or are held, per stage.
func (w *Worker) Queued(ctx context.Context) (map[string]uint64, error) {
	return Depths(ctx, w.courier.JetStream(), w.Config.Job, &w.Config.Work)
}

// Depths counts the messages of a job that wait or are held, per stage.
func Depths(ctx context.Context, js jetstream.JetStream, job id.Job, work *Work) (map[string]uint64, error) {
	n, err := courier.Counts(ctx, js, address.Stream(job), address.Subjects(job))
	if err != nil {
		return nil, err
	}
	var bytes map[string]uint64
	if len(work.Inlines()) > 0 {
		if bytes, err = courier.Counts(ctx, js, address.ByteStream(job), address.ByteSubjects(job)); err != nil {
			return nil, err
		}
	}
	out := map[string]uint64{}
	for _, stage := range Stages() {
		out[stage] = n[address.Subject(job, stage)] + bytes[address.ByteSubject(job, stage)]
	}
	return out, nil
}

// inFlight is how many hand-overs may wait for the server's word.
func (w *Worker) inFlight() int {
	for _, to := range Targets(w.Config.Stage) {
		if w.Config.Work.Inline(to) {
			return 2 // each has a parcel's bytes
		}
	}
	return 8
}

// queueOf is the stream, and how much of its own queue a worker keeps at hand.
func queueOf(cfg *Config) (stream string, places int) {
	if cfg.Work.Inline(cfg.Stage) {
		return address.ByteStream(cfg.Job), 2
	}
	return address.Stream(cfg.Job), Prefetch
}
