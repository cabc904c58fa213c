package restore

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// fixture is a vault in a folder and a writer of points into it: what the stages
// do, in one loop.
type fixture struct {
	t     testing.TB
	v     *vault.Vault
	root  string
	job   id.Job
	guest id.Guest
	cut   chunk.Cutter
	ids   *chunk.IDs
	codec vault.Codec
	limit int // chunks in a pack

	rows  map[id.Chunk]table.ChunkRow // all chunks stored, Pack is into packs
	packs []table.PackRef
}

func newFixture(t testing.TB, codec string) *fixture {
	t.Helper()
	root := t.TempDir()
	st, err := dir.Open(root)
	must(t, err)
	v, _, err := vault.Create(t.Context(), st, []byte("password"), vault.CreateOptions{
		KDF: vault.KDF{Name: "argon2id", Time: 1, MemoryKiB: 8 << 10, Threads: 1},
	})
	must(t, err)
	d := v.Config.DefaultDomain
	idKey, err := v.Keys.IDKey(d)
	must(t, err)
	cutKey, err := v.Keys.CutKey(d)
	must(t, err)
	f := &fixture{t: t, v: v, root: root, job: id.NewJob(), guest: id.Guest{1}, ids: chunk.NewIDs(idKey), limit: 64, rows: map[id.Chunk]table.ChunkRow{}}
	f.cut, err = chunk.New(chunk.Default(), cutKey)
	must(t, err)
	f.codec, err = vault.NewCodec(codec)
	must(t, err)
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store puts chunks that are new into packs of f.limit chunks and returns the
// rows of all, in order of first use.
func (f *fixture) store(disk id.Disk, chunks [][]byte) {
	f.t.Helper()
	ctx, d := f.t.Context(), f.v.Config.DefaultDomain
	var w *vault.PackWriter
	var fresh []table.ChunkRow
	finish := func() {
		if w == nil {
			return
		}
		info, err := w.Close(ctx)
		must(f.t, err)
		for i, r := range fresh {
			e := info.Entries[i]
			r.Pack, r.Offset, r.Stored = uint32(len(f.packs)), e.Offset, e.Stored
			f.rows[r.Chunk] = r
		}
		f.packs = append(f.packs, table.PackRef{Job: f.job, Name: info.Name})
		w, fresh = nil, nil
	}
	seen := map[id.Chunk]bool{}
	for _, b := range chunks {
		c := f.ids.ID(b)
		if _, known := f.rows[c]; known || seen[c] {
			continue
		}
		seen[c] = true
		if w == nil {
			var err error
			w, err = vault.NewPackWriter(ctx, f.v.Store, f.v.Keys, f.job, d)
			must(f.t, err)
		}
		sealed, err := f.v.Keys.SealChunk(nil, d, c, f.codec.Encode(nil, b))
		must(f.t, err)
		_, err = w.Add(vault.PackEntry{Chunk: c, Raw: uint32(len(b))}, vault.PackDisk{Guest: f.guest, Disk: disk}, sealed)
		must(f.t, err)
		fresh = append(fresh, table.ChunkRow{Chunk: c, Raw: uint32(len(b)), New: true})
		if len(fresh) == f.limit {
			finish()
		}
	}
	finish()
}

// ref is a range of a disk that shows a part of a chunk, or zeros.
type ref struct {
	offset, length int64
	zero           bool
	chunk          []byte
	inner          int64
}

// layer writes the two tables that say what refs say.
func (f *fixture) layer(disk id.Disk, refs []ref) (extents, chunks events.TableRef) {
	f.t.Helper()
	var all [][]byte
	for _, r := range refs {
		if !r.zero {
			all = append(all, r.chunk)
		}
	}
	f.store(disk, all)
	var rows []table.ChunkRow
	number := map[id.Chunk]uint32{}
	var cover []table.ExtentRow
	for _, r := range refs {
		e := table.ExtentRow{Offset: r.offset, Length: r.length, Zero: r.zero, ChunkOffset: r.inner}
		if !r.zero {
			c := f.ids.ID(r.chunk)
			n, known := number[c]
			if !known {
				n = uint32(len(rows))
				number[c] = n
				rows = append(rows, f.rows[c])
			}
			e.Chunk, e.ID = n, c
		}
		cover = append(cover, e)
	}
	ctx, d := f.t.Context(), f.v.Config.DefaultDomain
	chunks, _, err := table.WriteChunks(ctx, f.v, f.job, d, f.packs, each(rows))
	must(f.t, err)
	extents, _, err = table.WriteExtents(ctx, f.v, f.job, d, each(cover))
	must(f.t, err)
	return extents, chunks
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

// full cuts a whole disk and describes it.
func (f *fixture) full(content []byte) []ref {
	var refs []ref
	cell := int(f.v.Config.CellSize)
	for at := 0; at < len(content); at += cell {
		b := content[at:min(at+cell, len(content))]
		for _, p := range f.cut.Cut(b, nil) {
			r := ref{offset: int64(at) + p.Offset, length: p.Length, zero: p.Zero}
			if !p.Zero {
				r.chunk = b[p.Offset : p.Offset+p.Length]
			}
			refs = append(refs, r)
		}
	}
	return refs
}

// backup stores content as the disk called key.
func (f *fixture) backup(key string, content []byte) events.PointDisk {
	f.t.Helper()
	disk := id.NewDisk(f.guest, key)
	extents, chunks := f.layer(disk, f.full(content))
	return events.PointDisk{
		Disk: disk, Key: key, Format: "raw", Size: int64(len(content)), Sector: 512,
		Extents: []events.TableRef{extents}, Chunks: []events.TableRef{chunks}, Root: extents.Root,
	}
}

func (f *fixture) point(disks ...events.PointDisk) events.PointCommitted {
	return events.PointCommitted{Point: id.NewPoint(f.job, f.guest), Guest: f.guest, Disks: disks}
}

// objects are the paths of all files below a prefix of the vault.
func (f *fixture) objects(prefix string) []string {
	f.t.Helper()
	var all []string
	for e, err := range f.v.Store.List(f.t.Context(), prefix) {
		must(f.t, err)
		all = append(all, filepath.Join(f.root, filepath.FromSlash(e.Name)))
	}
	return all
}

// spoil edits a file in place and returns a function that puts it back.
func spoil(t testing.TB, path string, edit func([]byte) []byte) func() {
	t.Helper()
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, edit(bytes.Clone(before)), 0o600))
	return func() { must(t, os.WriteFile(path, before, 0o600)) }
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 0x40; return b }
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// text is n bytes that compress.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%d %x the guest wrote a line\n", r.Uint32(), r.Uint64())
	}
	return b.Bytes()[:n]
}

// mixed is a disk with text, noise, repeated files, holes and an odd size.
func mixed() []byte {
	b := make([]byte, 21*mib+1234)
	copy(b[0:], text(1, 3*mib))
	copy(b[4*mib-300*kib:], noise(2, 700*kib)) // across a cell border
	copy(b[9*mib:], text(1, 2*mib))            // a file again, elsewhere
	copy(b[13*mib:], noise(3, 50*kib))
	copy(b[16*mib:], text(4, mib))
	copy(b[17*mib:], text(4, mib))
	copy(b[18*mib:], text(4, mib))
	copy(b[21*mib:], noise(5, 1234))
	return b
}
