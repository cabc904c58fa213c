package heal

import (
	"context"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// bed is a vault with one guest of one disk.
type bed struct {
	t      *testing.T
	v      *vault.Vault
	l      *ledger.Ledger
	root   string
	guest  id.Guest
	copies index
}

// index has the newest place of each chunk.
type index map[id.Chunk]chunkindex.Place

func (x index) Find(c id.Chunk) (chunkindex.Place, bool) { p, ok := x[c]; return p, ok }

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, root: filepath.Join(t.TempDir(), "vault"), guest: id.Guest{7}, copies: index{}}
	st, err := dir.Create(b.root)
	if err != nil {
		t.Fatal(err)
	}
	b.v, _, err = vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if b.l, err = ledger.Open(t.Context(), b.v, ledger.Options{Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) say(job id.Job, facts ...events.Fact) {
	b.t.Helper()
	_, err := b.l.Append(b.t.Context(), job, facts, nil, nil)
	b.must(err)
}

func (b *bed) state() *catalog.State {
	b.t.Helper()
	s, err := catalog.Fold(b.l.Records(b.t.Context(), 0))
	b.must(err)
	return s
}

// point stores a disk of random bytes of this seed in a pack of its own, whatever is
// stored already, and commits it.
func (b *bed) point(seed uint64) events.PointCommitted {
	b.t.Helper()
	ctx, job, d := b.t.Context(), id.NewJob(), b.v.Config.DefaultDomain
	key, err := b.v.Keys.IDKey(d)
	b.must(err)
	w, err := vault.NewPackWriter(ctx, b.v.Store, b.v.Keys, job, d)
	b.must(err)
	codec, err := vault.NewCodec("none")
	b.must(err)
	disk := events.PointDisk{Disk: id.NewDisk(b.guest, "disk"), Key: "disk", Format: "raw", Size: 10 << 16, Sector: 512}
	content := make([]byte, disk.Size)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := range content {
		content[i] = byte(rnd.Uint32())
	}
	var extents []table.ExtentRow
	for at := 0; at < len(content); at += 1 << 16 {
		part := content[at : at+1<<16]
		c := chunk.NewIDs(key).ID(part)
		sealed, err := b.v.Keys.SealChunk(nil, d, c, codec.Encode(nil, part))
		b.must(err)
		_, err = w.Add(vault.PackEntry{Chunk: c, Raw: 1 << 16}, vault.PackDisk{Guest: b.guest, Disk: disk.Disk}, sealed)
		b.must(err)
		extents = append(extents, table.ExtentRow{Offset: int64(at), Length: 1 << 16, ID: c, Chunk: uint32(at >> 16)})
	}
	info, err := w.Close(ctx)
	b.must(err)
	var rows []table.ChunkRow
	for _, e := range info.Entries {
		rows = append(rows, table.ChunkRow{Chunk: e.Chunk, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw, New: true})
		b.copies[e.Chunk] = chunkindex.Place{Job: job, Pack: info.Name, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw}
	}
	chunks, _, err := table.WriteChunks(ctx, b.v, job, d, []table.PackRef{{Job: job, Name: info.Name}}, each(rows))
	b.must(err)
	cover, _, err := table.WriteExtents(ctx, b.v, job, d, each(extents))
	b.must(err)
	disk.Extents, disk.Chunks, disk.Root = []events.TableRef{cover}, []events.TableRef{chunks}, cover.Root
	p := events.PointCommitted{Point: id.NewPoint(job, b.guest), Guest: b.guest, GuestName: "web", Disks: []events.PointDisk{disk}, DiskBytes: disk.Size}
	b.say(job, events.JobStarted{Verb: "backup"}, events.PackStored{Pack: info.Name, Domain: d, Size: info.Size, Chunks: uint32(len(info.Entries))}, p,
		events.JobFinished{Outcome: "done"})
	return p
}

func each[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range all {
			if !yield(x, nil) {
				return
			}
		}
	}
}

// at is where a chunk of the point's disk lies.
func (b *bed) at(p events.PointCommitted, n int) table.MapPiece {
	b.t.Helper()
	m, err := table.OpenMap(b.t.Context(), b.v, p.Disks[0])
	b.must(err)
	for x, err := range m.Range(b.t.Context(), int64(n)<<16, int64(n+1)<<16) {
		b.must(err)
		return x
	}
	b.t.Fatal("no piece")
	return table.MapPiece{}
}

func (b *bed) path(x table.MapPiece) string {
	return filepath.Join(b.root, filepath.FromSlash(vault.PackName(x.Pack.Job, x.Pack.Name)))
}

// rot flips a bit of a chunk.
func (b *bed) rot(x table.MapPiece) {
	b.t.Helper()
	raw, err := os.ReadFile(b.path(x))
	b.must(err)
	raw[x.PackOffset+x.Stored/2] ^= 4
	b.must(os.Remove(b.path(x)))
	b.must(os.WriteFile(b.path(x), raw, 0o600))
}

func (b *bed) verify(p id.Point) (restore.Report, error) {
	return restore.Verify(b.t.Context(), b.v, b.state().Points[p].PointCommitted, restore.Options{ReadPercent: 100})
}

// withdraw does what the verb verify does when it finds something.
func (b *bed) withdraw(ctx context.Context, p events.PointCommitted) *Sight {
	b.t.Helper()
	report, _ := b.verify(p.Point)
	s, seen := b.state(), NewSight()
	b.must(NewEye(b.v, time.Millisecond, time.Millisecond).Again(ctx, s, report.Damages, seen))
	facts := seen.Withdraw(s)
	for _, each := range s.Listed() {
		count, ranges, err := Touched(ctx, b.v, each.PointCommitted, seen.Bad, 10)
		b.must(err)
		if count > 0 {
			facts = append(facts, events.PointVerified{Point: each.Point, Mode: "withdrawn", DamagedCount: count, Damaged: ranges})
		}
	}
	if len(facts) > 0 {
		b.say(id.NewJob(), facts...)
	}
	return seen
}

func (b *bed) work() *Work {
	return &Work{Vault: b.v, Ledger: b.l, Job: id.NewJob(), Domain: b.v.Config.DefaultDomain, Index: b.copies}
}
