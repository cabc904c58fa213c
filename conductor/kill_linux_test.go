package conductor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/audit/exact"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/conductor/queue"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor/folder"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/genesis"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// program is the real binary, built once: its stage verb is what runs.
var program = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "millrace-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "millrace")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/millrace").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// bed is a vault with one guest.
type bed struct {
	vault *vault.Vault
	image string
	state string
	root  string
}

func newBed(t *testing.T, size int64) *bed {
	t.Helper()
	b := emptyBed(t, vault.CreateOptions{})
	writeImage(t, b.image, size)
	return b
}

// emptyBed is one whose guest has no image yet.
func emptyBed(t *testing.T, o vault.CreateOptions) *bed {
	t.Helper()
	b := &bed{root: filepath.Join(t.TempDir(), "vault"), state: t.TempDir(), image: filepath.Join(t.TempDir(), "guest.raw")}
	st, err := dir.Create(b.root)
	if err != nil {
		t.Fatal(err)
	}
	o.KDF, o.Now = vault.KDF{Name: "argon2id", MemoryKiB: 8 << 10, Time: 1, Threads: 1}, time.Now
	if b.vault, _, err = vault.Create(t.Context(), st, []byte("secret"), o); err != nil {
		t.Fatal(err)
	}
	if _, err := genesis.Begin(t.Context(), b.vault, b.ledger(t), "test"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.exact(t) })
	return b
}

// exact makes sure that every job of the test accounted for every byte exactly once. A
// vault that the test has destroyed says nothing.
func (b *bed) exact(t *testing.T) {
	ctx := context.Background()
	l, err := ledger.Open(ctx, b.vault, ledger.Options{Now: time.Now})
	if err == nil {
		err = exact.Check(l.Records(ctx, 0))
	}
	if errors.Is(err, exact.ErrInexact) {
		t.Error(err)
	}
}

// writeImage makes a disk of text-like, random and repeated data with holes.
func writeImage(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	noise := rand.NewChaCha8([32]byte{byte(size)})
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = "etaoin shrdlu\n"[rng.Uint32()%14]
	}
	block := make([]byte, len(text))
	for at := int64(0); at < size; at += int64(len(block)) {
		switch rng.IntN(5) {
		case 0:
			continue // a hole
		case 1:
			_, _ = noise.Read(block)
		default:
			copy(block, text)
			for i := 0; i < len(block); i += 4096 { // the same words, in blocks of which no two are equal
				binary.LittleEndian.PutUint64(block[i:], uint64(at)+uint64(i))
			}
		}
		if _, err := f.WriteAt(block[:min(int64(len(block)), size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) ledger(t *testing.T) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), b.vault, ledger.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *bed) options(t *testing.T) Options {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	l := b.ledger(t)
	state, err := catalog.Fold(l.Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	guests, err := folder.New(b.image, folder.Options{Vault: b.vault.ID}).Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Vault: b.vault, Location: b.root, Ledger: l, Catalog: state, State: b.state, Index: filepath.Join(b.state, "index"), Command: []string{path, "stage"},
		Guests: guests, Sources: []string{b.image}, Now: time.Now, Host: "test",
	}
}

// check restores the newest point and compares it with the image, byte by byte.
func (b *bed) check(t *testing.T) *catalog.State {
	t.Helper()
	s, err := catalog.Fold(b.ledger(t).Records(t.Context(), 0))
	if err != nil {
		t.Fatal(err)
	}
	points := s.Listed()
	if len(points) == 0 {
		t.Fatal("no point is listed")
	}
	p := points[len(points)-1]
	out := filepath.Join(t.TempDir(), "restored.raw")
	if err := restore.Raw(t.Context(), b.vault, p.Disks[0], out, restore.RawOptions{}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(b.image)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the restored disk differs from the image")
	}
	return s
}

// A worker of each stage is killed three times while it holds a message. The job
// ends well, the disk is equal, no slot is left, and no fact is there twice.
func TestKilledWorkers(t *testing.T) {
	for _, stage := range flow.Stages() {
		t.Run(stage, func(t *testing.T) { killedWorkers(t, stage, flow.Claim) })
	}
}

// The same with the bytes in the messages, for the stages that then do anything else.
func TestKilledInlineWorkers(t *testing.T) {
	for _, stage := range []string{flow.Reader, flow.Chunker, flow.Delta, flow.Seal, flow.Uploader} {
		t.Run(stage, func(t *testing.T) { killedWorkers(t, stage, flow.Inline) })
	}
}

func killedWorkers(t *testing.T, stage, transport string) {
	const wanted = 3
	kills := 0
	for job := 0; kills < wanted && job < 5; job++ { // on a fast machine one job may be over too soon
		kills += killedJob(t, stage, transport, wanted-kills)
	}
	if kills < wanted {
		t.Errorf("%d workers were killed, want %d", kills, wanted)
	}
}

// killedJob runs a job and kills at most so many workers of a stage; it returns how many.
func killedJob(t *testing.T, stage, transport string, wanted int) int {
	t.Helper()
	b := newBed(t, 300<<20)
	o := b.options(t)
	o.Parallel = map[string]int{flow.Seal: 1} // so that who holds a message is who is killed
	k := &killer{stage: stage, wanted: wanted}
	o.Transport = transport
	o.Started = k.started
	o.joined = k.hunt
	s, err := Backup(t.Context(), o)
	if err != nil || s.Outcome != "done" {
		t.Fatalf("outcome %q, %v, guests %+v", s.Outcome, err, s.Guests)
	}
	if s.SlotsLeft != 0 {
		t.Errorf("%d slots are left in use", s.SlotsLeft)
	}
	b.check(t)
	checkFacts(t, b, s, stage, k.killed())
	return k.killed()
}

// checkFacts reads the job back from the ledger.
func checkFacts(t *testing.T, b *bed, s Summary, stage string, kills int) {
	t.Helper()
	seen := map[string]int{}
	var redelivered uint64
	died := 0
	for r, err := range b.ledger(t).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Job != s.Job {
			continue
		}
		switch f := r.Fact.(type) {
		case events.PackStored:
			seen["PackStored "+f.Pack.String()]++
		case events.StageStopped:
			if f.Stage == stage {
				redelivered += f.Redelivered
				if f.Exit == "signal: killed" {
					died++
				}
			}
		case events.StageStarted:
		default:
			seen[r.Kind]++
		}
	}
	for what, n := range seen {
		if n != 1 {
			t.Errorf("%s stands %d times in the ledger", what, n)
		}
	}
	if died != kills {
		t.Errorf("the ledger says that %d workers of %s were killed, %d were", died, stage, kills)
	}
	if stage != flow.Snapshot && kills > 0 && redelivered == 0 {
		t.Errorf("the ledger shows no redelivery to %s", stage)
	}
}

// killer kills workers of one stage at the moment they hold a message.
type killer struct {
	stage  string
	wanted int

	mu   sync.Mutex
	pid  int
	done int
	dead int // messages that the last one killed held
}

func (k *killer) started(stage string, _ uint32, pid int) {
	if stage == k.stage {
		k.mu.Lock()
		k.pid = pid
		k.mu.Unlock()
	}
}

func (k *killer) killed() int { k.mu.Lock(); defer k.mu.Unlock(); return k.done }

func (k *killer) hunt(ctx context.Context, q *queue.Queue) {
	last := 0
	// On a busy machine it takes long to learn what is held. A worker that is
	// stopped most of its time never comes to hold anything.
	rest := 3 * time.Millisecond
	for ctx.Err() == nil && k.killed() < k.wanted {
		time.Sleep(rest)
		k.mu.Lock()
		pid := k.pid
		k.mu.Unlock()
		if pid == 0 || pid == last {
			continue
		}
		// Stopped, it settles nothing, and takes what the server has for it.
		stopped := time.Now()
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(5 * time.Millisecond)
		held, ok := k.holds(ctx, q)
		if ok { // what it said before it was stopped may still be on its way to the server
			time.Sleep(30 * time.Millisecond)
			held, ok = k.holds(ctx, q)
		}
		if !ok || syscall.Kill(pid, syscall.SIGKILL) != nil {
			_ = syscall.Kill(pid, syscall.SIGCONT)
			rest = max(3*time.Millisecond, min(3*time.Since(stopped), time.Second))
			continue
		}
		last = pid
		k.mu.Lock()
		k.done++
		k.dead = held
		k.mu.Unlock()
	}
}

// holds reports whether a message is with the stage's worker. After a kill those
// of the dead count as held until they are delivered again.
func (k *killer) holds(ctx context.Context, q *queue.Queue) (int, bool) {
	if k.stage == flow.Snapshot { // it holds the plan: kill it while it sends
		return 0, q.Hub.Depths(ctx)[flow.Reader] > 0
	}
	held, again, err := q.Hub.Held(ctx, k.stage)
	return held, err == nil && (held > k.dead || again > 0)
}
