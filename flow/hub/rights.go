package hub

import (
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/address"
	"github.com/millrace-backup/millrace/id"
)

// Allowed is what one worker may publish and subscribe to; the server enforces it.
type Allowed struct{ Publish, Subscribe []string }

// Permissions returns the rights of one worker: to receive its own stage's
// messages, to send to its successors, to report, and nothing else. The
// uploader and the indexer may also read the queue's counts, to know when nothing
// more is coming; the indexer alone publishes facts.
func Permissions(job id.Job, work *flow.Work, stage string, worker uint32) Allowed {
	s, own := address.Stream(job), address.Stream(job)
	if work.Inline(stage) {
		own = address.ByteStream(job)
	}
	a := Allowed{
		Publish: []string{
			"$JS.API.CONSUMER.INFO." + own + "." + stage,
			"$JS.API.CONSUMER.MSG.NEXT." + own + "." + stage,
			"$JS.ACK." + own + "." + stage + ".>",
			address.StatusSubject(job, worker),
		},
		Subscribe: []string{address.Inbox(worker) + ".>"},
	}
	bytes := "$JS.API.STREAM.INFO." + address.ByteStream(job)
	for _, to := range flow.Targets(stage) {
		if work.Inline(to) {
			a.Publish = append(a.Publish, address.ByteSubject(job, to), bytes)
		} else {
			a.Publish = append(a.Publish, address.Subject(job, to))
		}
	}
	if len(work.Inlines()) > 0 && (stage == flow.Uploader || stage == flow.Indexer) {
		a.Publish = append(a.Publish, bytes)
	}
	switch stage {
	case flow.Uploader:
		a.Publish = append(a.Publish, "$JS.API.STREAM.INFO."+s)
	case flow.Indexer:
		f := address.FactStream(job)
		a.Publish = append(a.Publish, "$JS.API.STREAM.INFO."+s, address.FactSubject(job), address.ProgressSubject(job),
			"$JS.API.STREAM.INFO."+f, "$JS.API.STREAM.MSG.GET."+f, "$JS.API.DIRECT.GET."+f, "$JS.API.DIRECT.GET."+f+".>")
	}
	return a
}
