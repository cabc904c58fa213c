package queues

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// errNothing: there was nothing to do it to.
var errNothing = errors.New("nothing there")

// strikes is what can be done to the queues of a job.
//
//	stream deleted       one of its streams
//	consumer deleted     the queue of one stage
//	consumer set back    deleted and made again: what was delivered is delivered again
//	purged               all messages of a stream
//	messages deleted     some of them
//	memory lost          the server is killed and started again
//	store deleted        and its files removed
//	store set back       and its files replaced by those of before the job
//	replayed             messages of before are sent again, most acknowledged long ago
//	misdelivered         messages come to another stage
//	altered              messages come with a flipped bit, cut short, or as noise
func strikes() map[string]func(context.Context, *course, string) error {
	return map[string]func(context.Context, *course, string) error{
		"stream deleted": streamDeleted, "consumer deleted": consumerDeleted, "consumer set back": consumerSetBack,
		"purged": purged, "messages deleted": messagesDeleted,
		"memory lost": func(ctx context.Context, t *course, _ string) error {
			return t.restart(ctx, func(string) error { return nil })
		},
		"store deleted":  func(ctx context.Context, t *course, _ string) error { return t.restart(ctx, os.RemoveAll) },
		"store set back": func(ctx context.Context, t *course, _ string) error { return t.restart(ctx, t.before) },
		"replayed":       replayed, "misdelivered": misdelivered, "altered": altered,
	}
}

// ownStrikes is what can be done to the files of a job's own server.
func ownStrikes() map[string]func(string) error {
	return map[string]func(string) error{
		"own store deleted": os.RemoveAll, "own store altered": each(flip), "own store cut short": each(func(file string) error { return os.Truncate(file, 0) }),
	}
}

// strike waits for the moment and strikes once or twice.
func (t *course) strike(ctx context.Context, p *rig.Process, jobs <-chan string) error {
	blows := 1 + t.rng.IntN(5)/4
	life := t.lasts[t.inline]
	var job string
	select {
	case job = <-jobs:
		t.began = t.Now()
	case <-p.Over():
		return nil // what it says is judged by its exit code
	}
	for range blows {
		select {
		case <-time.After(time.Duration(t.rng.Float64() * 0.8 * float64(life))):
		case <-p.Over():
			t.kinds = append(t.kinds, "too late")
			return nil
		}
		letGo := t.pile(p)
		name, err := t.blow(ctx, job)
		letGo()
		switch {
		case errors.Is(err, errNothing) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound):
			name += " (nothing there)"
		case err != nil && !over(p):
			return fmt.Errorf("%s: %w", name, err)
		case over(p):
			name = "too late"
		default:
			t.hits++
		}
		t.kinds = append(t.kinds, name)
		t.note += name + "; "
	}
	return nil
}

// pile stops one of the job's processes, half of the time, so that messages wait for it.
func (t *course) pile(p *rig.Process) (letGo func()) {
	workers := slices.DeleteFunc(rig.Members(p.PID()), func(pid int) bool { return pid == p.PID() })
	if len(workers) == 0 || t.rng.IntN(2) == 0 {
		return func() {}
	}
	slices.Sort(workers)
	letGo = hold(pick(t, workers))
	time.Sleep(time.Duration(t.rng.IntN(300)) * time.Millisecond)
	return letGo
}

func over(p *rig.Process) bool {
	select {
	case <-p.Over():
		return true
	default:
		return false
	}
}

func (t *course) blow(ctx context.Context, job string) (name string, err error) {
	if t.site == nil {
		all := ownStrikes()
		name = pick(t, slices.Sorted(maps.Keys(all)))
		return name, all[name](filepath.Join(t.place.State, "jobs", job, "nats"))
	}
	if t.inline {
		t.kinds = append(t.kinds, "inline")
	}
	all := strikes()
	name = pick(t, slices.Sorted(maps.Keys(all)))
	return name, all[name](ctx, t, job)
}

// pick draws one of some.
func pick[T any](t *course, all []T) T { return all[t.rng.IntN(len(all))] }

// stream is one of the streams of a job.
func (t *course) stream(ctx context.Context, job string) (jetstream.Stream, error) {
	name := "J_" + job
	if t.inline && t.rng.IntN(2) == 0 {
		name = "B_" + job
	}
	return t.site.js.Stream(ctx, name)
}

func streamDeleted(ctx context.Context, t *course, job string) error {
	s, err := t.stream(ctx, job)
	if err == nil {
		err = t.site.js.DeleteStream(ctx, s.CachedInfo().Config.Name)
	}
	t.renewed = t.renewed || err == nil
	return err
}

// consumer deletes a consumer of the job and says what it was.
func (t *course) consumer(ctx context.Context, job string) (s jetstream.Stream, was jetstream.ConsumerConfig, err error) {
	s, err = t.stream(ctx, job)
	if err != nil {
		return nil, was, err
	}
	var all []jetstream.ConsumerConfig
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		all = append(all, info.Config)
	}
	if err := list.Err(); err != nil {
		return nil, was, err
	}
	if len(all) == 0 {
		return nil, was, errNothing
	}
	slices.SortFunc(all, func(a, b jetstream.ConsumerConfig) int { return strings.Compare(a.Durable, b.Durable) })
	was = pick(t, all)
	return s, was, s.DeleteConsumer(ctx, was.Durable)
}

func consumerDeleted(ctx context.Context, t *course, job string) error {
	_, _, err := t.consumer(ctx, job)
	t.renewed = t.renewed || err == nil
	return err
}

func consumerSetBack(ctx context.Context, t *course, job string) error {
	s, was, err := t.consumer(ctx, job)
	if err == nil {
		_, err = s.CreateOrUpdateConsumer(ctx, was)
	}
	return err
}

func purged(ctx context.Context, t *course, job string) error {
	s, err := t.stream(ctx, job)
	if err == nil {
		err = s.Purge(ctx)
	}
	return err
}

func messagesDeleted(ctx context.Context, t *course, job string) error {
	s, err := t.stream(ctx, job)
	if err != nil {
		return err
	}
	gone := 0
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		if t.rng.IntN(2) == 0 && s.DeleteMsg(ctx, seq) == nil { // one that was settled meanwhile is no more
			gone++
		}
	}
	if gone == 0 {
		return errNothing
	}
	return nil
}

// restart kills the server, does something to its files and starts it.
func (t *course) restart(ctx context.Context, to func(folder string) error) error {
	return errors.Join(t.site.kill(), to(t.site.path("js")), t.site.serve(ctx))
}

// before puts the files back that the server had before the job.
func (t *course) before(folder string) error {
	return errors.Join(os.RemoveAll(folder), os.CopyFS(folder, os.DirFS(t.site.path("js.before"))))
}

// again sends some of the job's messages, each as change makes it.
func (t *course) again(change func(*nats.Msg) *nats.Msg) error {
	sent := t.site.sent()
	if len(sent) == 0 {
		return errNothing
	}
	for range 1 + t.rng.IntN(8) {
		if err := t.site.nc.PublishMsg(change(pick(t, sent))); err != nil {
			return err
		}
	}
	return t.site.nc.Flush()
}

func replayed(_ context.Context, t *course, _ string) error {
	return t.again(func(m *nats.Msg) *nats.Msg { return &nats.Msg{Subject: m.Subject, Data: m.Data} })
}

func misdelivered(_ context.Context, t *course, _ string) error {
	sent := t.site.sent()
	return t.again(func(m *nats.Msg) *nats.Msg { return &nats.Msg{Subject: pick(t, sent).Subject, Data: m.Data} })
}

func altered(_ context.Context, t *course, _ string) error {
	return t.again(func(m *nats.Msg) *nats.Msg {
		data := slices.Clone(m.Data)
		switch t.rng.IntN(3) {
		case 0:
			if len(data) > 0 {
				data[t.rng.IntN(len(data))] ^= 1 << t.rng.IntN(8)
			}
		case 1:
			data = data[:t.rng.IntN(len(data)+1)]
		default:
			for k := range data {
				data[k] = byte(t.rng.Uint32())
			}
		}
		return &nats.Msg{Subject: m.Subject, Data: data}
	})
}

// each does something to all files of a folder.
func each(do func(file string) error) func(folder string) error {
	return func(folder string) error {
		n := 0
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the server takes files away, too
			}
			if err != nil || d.IsDir() {
				return err
			}
			n++
			return do(path)
		})
		if err == nil && n == 0 {
			return errNothing
		}
		return err
	}
}

// flip flips a bit in each page of a file.
func flip(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for at := 7; at < len(text); at += 512 {
		text[at] ^= 16
	}
	return os.WriteFile(file, text, 0o600)
}
