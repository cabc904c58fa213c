// Package healtest is a small vault to damage, for tests of packages heal and
// cmd/millrace/check: one guest with one disk of ten chunks of 64 KiB.
//
// Call [New], then [Bed.Point] for each point: it stores all chunks of a disk again, in
// a pack of its own, as a backup does that refers to nothing. [Bed.At] says where a point
// has a chunk, [Bed.Rot] flips a bit of it, [Bed.Say] appends whatever others may say.
// Nothing here decides anything; it uses the real vault, tables and ledger.
package healtest

import (
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
	"github.com/millrace-backup/millrace/ledger/genesis"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Bed is a vault with one guest of one disk.
type Bed struct {
	T      *testing.T
	Vault  *vault.Vault
	Ledger *ledger.Ledger
	Root   string // the vault's folder
	Guest  id.Guest
	Copies Index // the newest place of each chunk
}

// Index has places of chunks.
type Index map[id.Chunk]chunkindex.Place

// Find looks a chunk up.
func (x Index) Find(c id.Chunk) (chunkindex.Place, bool) { p, ok := x[c]; return p, ok }

// New makes a vault without points.
func New(t *testing.T) *Bed {
	t.Helper()
	b := &Bed{T: t, Root: filepath.Join(t.TempDir(), "vault"), Guest: id.Guest{7}, Copies: Index{}}
	st, err := dir.Create(b.Root)
	if err != nil {
		t.Fatal(err)
	}
	b.Vault, _, err = vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if b.Ledger, err = ledger.Open(t.Context(), b.Vault, ledger.Options{Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	_, err = genesis.Begin(t.Context(), b.Vault, b.Ledger, "healtest")
	b.Must(err)
	return b
}

// Must ends the test with an error.
func (b *Bed) Must(err error) {
	b.T.Helper()
	if err != nil {
		b.T.Fatal(err)
	}
}

// Say appends facts.
func (b *Bed) Say(job id.Job, facts ...events.Fact) {
	b.T.Helper()
	_, err := b.Ledger.Append(b.T.Context(), job, facts, nil, nil)
	b.Must(err)
}

// State is what the ledger adds up to.
func (b *Bed) State() *catalog.State {
	b.T.Helper()
	s, err := catalog.Fold(b.Ledger.Records(b.T.Context(), 0))
	b.Must(err)
	return s
}

// Point stores a disk of random bytes of this seed in a pack of its own, whatever is
// stored already, and commits it.
func (b *Bed) Point(seed uint64) events.PointCommitted {
	b.T.Helper()
	ctx, job, d := b.T.Context(), id.NewJob(), b.Vault.Config.DefaultDomain
	key, err := b.Vault.Keys.IDKey(d)
	b.Must(err)
	w, err := vault.NewPackWriter(ctx, b.Vault.Store, b.Vault.Keys, job, d)
	b.Must(err)
	codec, err := vault.NewCodec("none")
	b.Must(err)
	disk := events.PointDisk{Disk: id.NewDisk(b.Guest, "disk"), Key: "disk", Format: "raw", Size: 10 << 16, Sector: 512}
	content := make([]byte, disk.Size)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := range content {
		content[i] = byte(rnd.Uint32())
	}
	var extents []table.ExtentRow
	for at := 0; at < len(content); at += 1 << 16 {
		part := content[at : at+1<<16]
		c := chunk.NewIDs(key).ID(part)
		sealed, err := b.Vault.Keys.SealChunk(nil, d, c, codec.Encode(nil, part))
		b.Must(err)
		_, err = w.Add(vault.PackEntry{Chunk: c, Raw: 1 << 16}, vault.PackDisk{Guest: b.Guest, Disk: disk.Disk}, sealed)
		b.Must(err)
		extents = append(extents, table.ExtentRow{Offset: int64(at), Length: 1 << 16, ID: c, Chunk: uint32(at >> 16)})
	}
	info, err := w.Close(ctx)
	b.Must(err)
	var rows []table.ChunkRow
	for _, e := range info.Entries {
		rows = append(rows, table.ChunkRow{Chunk: e.Chunk, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw, New: true})
		b.Copies[e.Chunk] = chunkindex.Place{Job: job, Pack: info.Name, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw}
	}
	chunks, _, err := table.WriteChunks(ctx, b.Vault, job, d, []table.PackRef{{Job: job, Name: info.Name}}, each(rows))
	b.Must(err)
	cover, _, err := table.WriteExtents(ctx, b.Vault, job, d, each(extents))
	b.Must(err)
	disk.Extents, disk.Chunks, disk.Root = []events.TableRef{cover}, []events.TableRef{chunks}, cover.Root
	p := events.PointCommitted{Point: id.NewPoint(job, b.Guest), Guest: b.Guest, GuestName: "web", Disks: []events.PointDisk{disk}, DiskBytes: disk.Size}
	b.Say(job, events.JobStarted{Verb: "backup"}, events.PackStored{Pack: info.Name, Domain: d, Size: info.Size, Chunks: uint32(len(info.Entries))}, p,
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

// At is where a chunk of the point's disk lies.
func (b *Bed) At(p events.PointCommitted, n int) table.MapPiece {
	b.T.Helper()
	m, err := table.OpenMap(b.T.Context(), b.Vault, p.Disks[0])
	b.Must(err)
	for x, err := range m.Range(b.T.Context(), int64(n)<<16, int64(n+1)<<16) {
		b.Must(err)
		return x
	}
	b.T.Fatal("no piece")
	return table.MapPiece{}
}

// Path is the file of the pack of a piece.
func (b *Bed) Path(x table.MapPiece) string {
	return filepath.Join(b.Root, filepath.FromSlash(vault.PackName(x.Pack.Job, x.Pack.Name)))
}

// Rot flips a bit of a chunk.
func (b *Bed) Rot(x table.MapPiece) {
	b.T.Helper()
	raw, err := os.ReadFile(b.Path(x))
	b.Must(err)
	raw[x.PackOffset+x.Stored/2] ^= 4
	b.Must(os.Remove(b.Path(x)))
	b.Must(os.WriteFile(b.Path(x), raw, 0o600))
}

// Verify reads all of a point.
func (b *Bed) Verify(p id.Point) (restore.Report, error) {
	return restore.Verify(b.T.Context(), b.Vault, b.State().Points[p].PointCommitted, restore.Options{ReadPercent: 100})
}
