package table

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

var update = flag.Bool("update", false, "rewrite golden files")

var ctx = context.Background()

func newVault(t testing.TB) *vault.Vault {
	t.Helper()
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	v, _, err := vault.Create(ctx, st, []byte("pw"), vault.CreateOptions{KDF: kdf})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func seq[T any](rows []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func collect[T any](t testing.TB, rows iter.Seq2[T, error]) (out []T) {
	t.Helper()
	for r, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// backup makes the rows a job has for a disk of n chunks of 16 to 256 KiB, in
// packs of 32 MiB, in the order of the disk.
func backup(n int, seed uint64) (packs []PackRef, chunks []ChunkRow, extents []ExtentRow) {
	r := rand.New(rand.NewPCG(seed, 1))
	var at int64
	offset := uint32(90)
	for i := range n {
		if i == 0 || offset > 31<<20 {
			packs = append(packs, PackRef{id.Job{byte(seed)}, id.Object{byte(len(packs)), byte(seed)}})
			offset = 90
		}
		raw := uint32(4+r.IntN(61)) * 4096
		c := ChunkRow{Pack: uint32(len(packs) - 1), Offset: offset, Raw: raw, Stored: raw/2 + uint32(r.IntN(5000)), New: i%5 != 0}
		for i := 0; i < 32; i += 8 {
			binary.BigEndian.PutUint64(c.Chunk[i:], r.Uint64())
		}
		offset += c.Stored
		if i%7 == 3 {
			zero := int64(1+r.IntN(100)) * 65536
			extents = append(extents, ExtentRow{Offset: at, Length: zero, Zero: true})
			at += zero
		}
		chunks = append(chunks, c)
		extents = append(extents, ExtentRow{Offset: at, Length: int64(raw), Chunk: uint32(i), ID: c.Chunk})
		at += int64(raw)
	}
	return packs, chunks, extents
}

// byID orders a job's rows by chunk id instead.
func byID(chunks []ChunkRow, extents []ExtentRow) ([]ChunkRow, []ExtentRow) {
	place := make([]uint32, len(chunks))
	for i := range place {
		place[i] = uint32(i)
	}
	slices.SortFunc(place, func(a, b uint32) int { return chunks[a].Chunk.Compare(chunks[b].Chunk) })
	sorted, number := make([]ChunkRow, len(chunks)), make([]uint32, len(chunks))
	for to, from := range place {
		sorted[to], number[from] = chunks[from], uint32(to)
	}
	extents = slices.Clone(extents)
	for i := range extents {
		if !extents[i].Zero {
			extents[i].Chunk = number[extents[i].Chunk]
		}
	}
	return sorted, extents
}

// layerOf writes both tables of a layer.
func layerOf(t testing.TB, v *vault.Vault, packs []PackRef, chunks []ChunkRow, extents []ExtentRow) (c, e events.TableRef) {
	t.Helper()
	c, _, err := WriteChunks(ctx, v, id.Job{1}, v.Config.DefaultDomain, packs, seq(chunks))
	if err != nil {
		t.Fatal(err)
	}
	e, _, err = WriteExtents(ctx, v, id.Job{1}, v.Config.DefaultDomain, seq(extents))
	if err != nil {
		t.Fatal(err)
	}
	return c, e
}

func TestTablesKeepTheirRows(t *testing.T) {
	v := newVault(t)
	for _, n := range []int{0, 1, 100, 20000} {
		packs, chunks, extents := backup(n, 7)
		sortedChunks, sortedExtents := byID(chunks, extents)
		for _, sorted := range []bool{false, true} {
			if sorted {
				chunks, extents = sortedChunks, sortedExtents
			}
			cref, eref := layerOf(t, v, packs, chunks, extents)
			ct, err := OpenChunks(ctx, v, cref)
			if err != nil {
				t.Fatal(err)
			}
			if got := collect(t, ct.All(ctx)); !slices.Equal(got, chunks) {
				t.Fatalf("%d chunks came back as %d", len(chunks), len(got))
			}
			if !slices.Equal(ct.Packs(), packs) || ct.Domain() != v.Config.DefaultDomain {
				t.Error("packs or domain differ")
			}
			for i := 0; i < n; i += max(1, n/50) {
				r, p, err := ct.Row(ctx, uint32(i))
				if err != nil || r != chunks[i] || p != packs[r.Pack] {
					t.Fatalf("row %d: %v %v", i, r, err)
				}
				if r, _, ok, err := ct.Find(ctx, chunks[i].Chunk); err != nil || !ok || r != chunks[i] {
					t.Fatalf("find %d: %v %v %v", i, r, ok, err)
				}
			}
			if _, _, ok, err := ct.Find(ctx, id.Chunk{1, 2, 3}); ok || err != nil {
				t.Errorf("found a chunk that is not there: %v", err)
			}
			if _, _, err := ct.Row(ctx, uint32(n)); !errors.Is(err, vault.ErrDamaged) {
				t.Errorf("row %d of %d: %v", n, n, err)
			}
			et, err := OpenExtents(ctx, v, eref)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(extents)
			for i := range want {
				want[i].ID = id.Chunk{}
			}
			if got := collect(t, et.Range(ctx, 0, MaxDisk)); !slices.Equal(got, want) {
				t.Fatalf("%d extents came back as %d", len(want), len(got))
			}
			for i := 0; i+3 < len(want); i += max(1, len(want)/50) {
				got := collect(t, et.Range(ctx, want[i].Offset+1, want[i+2].Offset+1))
				if !slices.Equal(got, want[i:i+3]) {
					t.Fatalf("range over rows %d to %d: got %v", i, i+2, got)
				}
			}
		}
	}
}

func TestRowsAreSmall(t *testing.T) {
	v := newVault(t)
	packs, chunks, extents := backup(100_000, 3)
	for _, order := range []string{"by use", "by id"} {
		if order == "by id" {
			chunks, extents = byID(chunks, extents)
		}
		c, e := layerOf(t, v, packs, chunks, extents)
		perChunk, perExtent := float64(c.Size)/float64(c.Rows), float64(e.Size)/float64(e.Rows)
		t.Logf("%s: %.1f bytes a chunk, %.1f an extent", order, perChunk, perExtent)
		if perChunk > 45 || perExtent > 8 {
			t.Errorf("%s: %.1f bytes a chunk, %.1f an extent, want at most 45 and 8", order, perChunk, perExtent)
		}
	}
}

func TestTheRootSaysWhatNotWhere(t *testing.T) {
	v := newVault(t)
	packs, chunks, extents := backup(3000, 5)
	c1, e1 := layerOf(t, v, packs, chunks, extents)
	moved := slices.Clone(chunks)
	for i := range moved {
		moved[i].Pack, moved[i].Offset, moved[i].Stored, moved[i].New = 0, 5, 6, false
	}
	c2, e2 := layerOf(t, v, packs, moved, extents)
	if c1.Root != c2.Root || e1.Root != e2.Root {
		t.Error("the root depends on where chunks lie")
	}
	_, numbered := byID(chunks, extents)
	if _, e3 := layerOf(t, v, packs, chunks, numbered); e3.Root != e1.Root {
		t.Error("the root of extents depends on how chunks are numbered")
	}
	for i, change := range []func(*ExtentRow){
		func(r *ExtentRow) { r.ID[31]++ }, func(r *ExtentRow) { r.Length -= 4096 }, func(r *ExtentRow) { r.ChunkOffset = 4096 },
	} {
		other := slices.Clone(extents)
		change(&other[2000])
		if _, e := layerOf(t, v, packs, chunks, other); e.Root == e1.Root {
			t.Errorf("change %d does not show in the root", i)
		}
	}
}

func TestWrongRowsAreRefused(t *testing.T) {
	v := newVault(t)
	for name, rows := range map[string][]ExtentRow{
		"overlap":       {{Offset: 0, Length: 10}, {Offset: 9, Length: 10}},
		"descending":    {{Offset: 100, Length: 10}, {Offset: 0, Length: 10}},
		"empty":         {{Offset: 0, Length: 0}},
		"negative":      {{Offset: -5, Length: 10}},
		"beyond":        {{Offset: MaxDisk, Length: 1}},
		"inner":         {{Offset: 0, Length: 1, ChunkOffset: -1}},
		"zero of chunk": {{Offset: 0, Length: 1, Zero: true, Chunk: 4}},
	} {
		if _, _, err := WriteExtents(ctx, v, id.Job{}, id.Domain{}, seq(rows)); !errors.Is(err, ErrRow) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := WriteChunks(ctx, v, id.Job{}, id.Domain{}, nil, seq([]ChunkRow{{Pack: 0}})); !errors.Is(err, ErrRow) {
		t.Errorf("chunk without a pack: %v", err)
	}
	failing := func(yield func(ExtentRow, error) bool) { yield(ExtentRow{}, fs) }
	if _, _, err := WriteExtents(ctx, v, id.Job{}, id.Domain{}, failing); !errors.Is(err, fs) {
		t.Errorf("an error of the rows: %v", err)
	}
	for e, err := range v.Store.List(ctx, "tables/") {
		t.Errorf("left behind: %v %v", e, err)
	}
}

var fs = errors.New("source of rows is gone")

func path(v *vault.Vault, ref events.TableRef) string {
	return filepath.Join(v.Store.(*dir.Store).Root(), filepath.FromSlash(ObjectName(ref)))
}

// One bit in any byte of a table is noticed by who reads all of it; so is a
// table cut short or grown, and one under the wrong reference.
func TestEveryChangeOfATableShows(t *testing.T) {
	v := newVault(t)
	packs, chunks, extents := backup(60, 9)
	cref, eref := layerOf(t, v, packs, chunks, extents)
	readChunks := func(ref events.TableRef) error {
		ct, err := OpenChunks(ctx, v, ref)
		if err != nil {
			return err
		}
		for _, err := range ct.All(ctx) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	readExtents := func(ref events.TableRef) error {
		et, err := OpenExtents(ctx, v, ref)
		if err != nil {
			return err
		}
		for _, err := range et.Range(ctx, 0, MaxDisk) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, test := range []struct {
		ref  events.TableRef
		read func(events.TableRef) error
	}{{cref, readChunks}, {eref, readExtents}} {
		file := path(v, test.ref)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		spoil := func(what string, b []byte) {
			t.Helper()
			if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, b, 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := test.read(test.ref); !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer) {
				t.Errorf("%s: got %v", what, err)
			}
		}
		for at := range good {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at % 8)
			spoil(fmt.Sprintf("bit in byte %d of %d", at, len(good)), bad)
		}
		spoil("cut short", good[:len(good)/2])
		spoil("one byte short", good[:len(good)-1])
		spoil("emptied", nil)
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := test.read(test.ref); err != nil {
			t.Errorf("put back: %v", err)
		}
		for i, change := range []func(*events.TableRef){
			func(r *events.TableRef) { r.UID[3]++ }, func(r *events.TableRef) { r.Size-- }, func(r *events.TableRef) { r.Size++ },
			func(r *events.TableRef) { r.Rows++ }, func(r *events.TableRef) { r.Root[1]++ }, func(r *events.TableRef) { r.Size = 1 << 62 },
			func(r *events.TableRef) { r.Size = -1 },
		} {
			ref := test.ref
			change(&ref)
			if err := test.read(ref); !errors.Is(err, vault.ErrDamaged) {
				t.Errorf("reference change %d: %v", i, err)
			}
		}
	}
	if err := readExtents(cref); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("a chunk table as extents: %v", err)
	}
}

// reference is a disk as an array of blocks: what a Map must agree with.
type reference []struct {
	chunk id.Chunk
	inner int64
}

func (d reference) check(t *testing.T, pieces []MapPiece, from, to int64) {
	t.Helper()
	at, zero := from, false
	for _, p := range pieces {
		if p.Offset != at || p.Length <= 0 {
			t.Fatalf("piece at %d of %d bytes, want one at %d", p.Offset, p.Length, at)
		}
		if p.Zero && zero {
			t.Fatalf("two zero pieces meet at %d", p.Offset)
		}
		zero = p.Zero
		for o := p.Offset; o < p.Offset+p.Length; o += block {
			b := d[o/block]
			if p.Zero != (b.chunk == id.Chunk{}) || !p.Zero && (b.chunk != p.Chunk || b.inner != p.ChunkOffset+o-p.Offset) {
				t.Fatalf("at %d: got %+v, want %+v", o, p, b)
			}
			if !p.Zero && (p.Pack.Name != id.Object{p.Chunk[0]} || p.Raw != 32*block) {
				t.Fatalf("at %d: wrong place %+v", o, p)
			}
		}
		at += p.Length
	}
	if at != to {
		t.Fatalf("the pieces end at %d, not %d", at, to)
	}
}

// Random layers over each other show what was written last.
func TestAMapShowsTheNewestLayer(t *testing.T) {
	v := newVault(t)
	r := rand.New(rand.NewPCG(4, 4))
	const blocks = 2000
	for round := range 20 {
		disk := make(reference, blocks)
		var pd events.PointDisk
		pd.Size = blocks * block
		for l := range 1 + round%MaxLayers {
			pd = pushLayer(t, v, r, disk, pd, byte(l+1), l == 0)
		}
		m, err := OpenMap(ctx, v, pd)
		if err != nil {
			t.Fatal(err)
		}
		disk.check(t, collect(t, m.Range(ctx, 0, pd.Size)), 0, pd.Size)
		disk.check(t, collect(t, m.Range(ctx, 0, pd.Size+99)), 0, pd.Size)
		for range 20 {
			from := int64(r.IntN(blocks)) * block
			to := from + int64(r.IntN(blocks-int(from/block)))*block
			disk.check(t, collect(t, m.Range(ctx, from, to)), from, to)
		}
		// A base merged from them and one more job shows the same.
		overlay := make(reference, blocks)
		var od events.PointDisk
		od.Size = blocks * block
		od = pushLayer(t, v, r, overlay, od, 99, false)
		om, err := OpenMap(ctx, v, od)
		if err != nil {
			t.Fatal(err)
		}
		job := slices.DeleteFunc(collect(t, om.Range(ctx, 0, od.Size)), func(p MapPiece) bool { return p.Zero })
		for _, p := range job {
			for o := p.Offset; o < p.Offset+p.Length; o += block {
				disk[o/block] = overlay[o/block]
			}
		}
		grown := append(disk, make(reference, 10)...)
		merged := collect(t, MergeLayers(ctx, m, pd.Size+10*block, seq(job)))
		grown.check(t, merged, 0, pd.Size+10*block)
	}
}

// pushLayer writes a layer of random extents, both into the vault and disk.
func pushLayer(t *testing.T, v *vault.Vault, r *rand.Rand, disk reference, pd events.PointDisk, name byte, whole bool) events.PointDisk {
	t.Helper()
	var chunks []ChunkRow
	var extents []ExtentRow
	for at := 0; at < len(disk); {
		n := min(1+r.IntN(30), len(disk)-at)
		switch {
		case !whole && r.IntN(3) > 0: // left to the layers below
		case r.IntN(4) == 0:
			extents = append(extents, ExtentRow{Offset: int64(at) * block, Length: int64(n) * block, Zero: true})
			for i := range n {
				disk[at+i].chunk = id.Chunk{}
			}
		default:
			c := ChunkRow{Chunk: id.Chunk{name, byte(len(chunks) >> 8), byte(len(chunks)), 1}, Raw: 32 * block, Stored: 9}
			inner := int64(r.IntN(32-n+1)) * block
			extents = append(extents, ExtentRow{Offset: int64(at) * block, Length: int64(n) * block,
				Chunk: uint32(len(chunks)), ChunkOffset: inner, ID: c.Chunk})
			chunks = append(chunks, c)
			for i := range n {
				disk[at+i].chunk, disk[at+i].inner = c.Chunk, inner+int64(i)*block
			}
		}
		at += n
	}
	c, e := layerOf(t, v, []PackRef{{id.Job{name}, id.Object{name}}}, chunks, extents)
	pd.Extents = slices.Insert(pd.Extents, 0, e)
	pd.Chunks = slices.Insert(pd.Chunks, 0, c)
	return pd
}

func TestHostileMaps(t *testing.T) {
	v := newVault(t)
	c, e := layerOf(t, v, []PackRef{{}}, []ChunkRow{{Chunk: id.Chunk{1}, Raw: 4096}}, []ExtentRow{{Length: 8192}})
	_, beyond := layerOf(t, v, nil, nil, []ExtentRow{{Length: 4096, Chunk: 7}})
	for name, d := range map[string]events.PointDisk{
		"longer than its chunk": {Size: 8192, Extents: []events.TableRef{e}, Chunks: []events.TableRef{c}},
		"no such row":           {Size: 8192, Extents: []events.TableRef{beyond}, Chunks: []events.TableRef{c}},
		"no chunk table":        {Size: 8192, Extents: []events.TableRef{e}, Chunks: []events.TableRef{{}}},
		"not in pairs":          {Size: 8192, Extents: []events.TableRef{e}},
		"too many layers":       {Size: 8192, Extents: make([]events.TableRef, 9), Chunks: make([]events.TableRef, 9)},
		"negative size":         {Size: -1},
	} {
		m, err := OpenMap(ctx, v, d)
		if err == nil {
			for _, rerr := range m.Range(ctx, 0, 1<<40) {
				err = rerr
			}
		}
		if !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A sparse disk of 16 TiB with 262,144 extents opens and is walked in well
// under a second and 32 MiB.
func TestALargeSparseDisk(t *testing.T) {
	v := newVault(t)
	packs, chunks, extents := backup(1<<18, 8)
	extents = slices.DeleteFunc(extents, func(e ExtentRow) bool { return e.Zero })
	for i := range extents {
		extents[i].Offset = int64(i) << 26 // one in each 64 MiB: 16 TiB
	}
	for _, order := range []string{"by use", "eight layers", "by id"} {
		if order == "by id" {
			chunks, extents = byID(chunks, extents)
		}
		pd := events.PointDisk{Size: 1 << 44}
		layers := 1
		if order == "eight layers" {
			layers = MaxLayers
		}
		for l := range layers {
			var part []ExtentRow
			for i := l; i < len(extents); i += layers {
				part = append(part, extents[i])
			}
			c, e := layerOf(t, v, packs, chunks, part)
			pd.Extents, pd.Chunks = append(pd.Extents, e), append(pd.Chunks, c)
		}
		before := heap()
		start := time.Now()
		m, err := OpenMap(ctx, v, pd)
		if err != nil {
			t.Fatal(err)
		}
		open := time.Since(start)
		n, most := 0, uint64(0)
		for _, err := range m.Range(ctx, 0, pd.Size) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n%100_000 == 0 {
				most = max(most, heap())
			}
		}
		walk := time.Since(start)
		most = max(most, heap()) - before
		t.Logf("%s: open %v, open and walk %d pieces %v, %.1f MiB live", order, open, n, walk, float64(most)/(1<<20))
		// A machine of our own takes 0.15 s; the limit leaves room for busy ones
		// and still catches a page read for every extent (20 s).
		if n != 2*len(extents) || walk > 5*time.Second*slow || most > 32<<20 {
			t.Errorf("%s: %d pieces in %v with %d bytes", order, n, walk, most)
		}
		runtime.KeepAlive(m)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s: the form has changed\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

// The plain parts of a table, before compression and sealing.
func TestForms(t *testing.T) {
	var page1 []byte
	var last ChunkRow
	rows := []ChunkRow{
		{Chunk: id.Chunk{1}, Pack: 0, Offset: 90, Stored: 30000, Raw: 65536, New: true},
		{Chunk: id.Chunk{2}, Pack: 0, Offset: 30090, Stored: 4000, Raw: 4095},
		{Chunk: id.Chunk{3}, Pack: 2, Offset: 90, Stored: 200000, Raw: 262144, New: true},
		{Chunk: id.Chunk{4}, Pack: 1, Offset: 80, Stored: 1 << 31, Raw: 1<<32 - 1},
	}
	for _, r := range rows {
		page1 = appendChunkRow(page1, r, last)
		last = r
	}
	if got, err := decodeChunkPage(page1, 4, 3); err != nil || !slices.Equal(got, rows) {
		t.Errorf("chunks: %v %v", got, err)
	}
	var page2 []byte
	var before extent
	extents := []extent{
		{offset: 1 << 20, length: 65536, chunk: 0},
		{offset: 1<<20 + 65536, length: 4095, chunk: 1, inner: 8192},
		{offset: 1 << 30, length: 1 << 40, zero: true},
		{offset: 1<<30 + 1<<40, length: 4096, chunk: 7, inner: 100},
	}
	for _, e := range extents {
		page2 = appendExtent(page2, e, before)
		before = e.neighbour(before)
	}
	if got, err := decodeExtentPage(page2, 4, 1<<20); err != nil || !slices.Equal(got, extents) {
		t.Errorf("extents: %v %v", got, err)
	}
	root := events.Hash{0xaa, 31: 0xbb}
	pages := []page{{60000, 1500, 5}, {59000, 1400, 0x0102030405060708}}
	packs := []PackRef{{id.Job{1}, id.Object{2}}, {id.Job{3}, id.Object{4}}}
	golden(t, "table.golden", "chunk page\n"+hex.Dump(page1)+"extent page\n"+hex.Dump(page2)+
		"chunk index\n"+hex.Dump(appendIndex(nil, kindChunks, root, true, pages, packs))+
		"extent index\n"+hex.Dump(appendIndex(nil, kindExtents, root, false, pages, nil))+
		"trailer\n"+hex.Dump(appendTrailer(nil, 2900, 119082, 300))+
		"page name\n"+hex.Dump(pageName(events.UID{7}, 258))+
		"extent content\n"+hex.Dump(contentOf(extents[1], id.Chunk{9}))+"zero content\n"+hex.Dump(contentOf(extents[2], id.Chunk{})))
	v := newVault(t)
	w, err := newWriter(ctx, v, kindChunks, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	defer w.up.Abort()
	want := slices.Concat([]byte("MRTABL\x00\x01\x02\x00"), v.ID[:], v.Config.DefaultDomain[:], w.uid[:])
	if !bytes.Equal(w.header, want) {
		t.Errorf("header %x, want %x", w.header, want)
	}
}

func TestAStoreThatCannotStream(t *testing.T) {
	v := newVault(t)
	v.Store = struct{ store.Store }{v.Store}
	packs, chunks, extents := backup(500, 2)
	c, _ := layerOf(t, v, packs, chunks, extents)
	ct, err := OpenChunks(ctx, v, c)
	if err != nil || len(collect(t, ct.All(ctx))) != 500 {
		t.Error(err)
	}
}

func damagedOrFine(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer) {
		t.Fatalf("%v is neither damage nor newer", err)
	}
}

func FuzzHeaderAndTrailer(f *testing.F) {
	v := newVault(f)
	f.Add([]byte(magic), appendTrailer(nil, 1, 74, 60))
	f.Fuzz(func(t *testing.T, header, trailer []byte) {
		damagedOrFine(t, (&file{v: v}).parseHeader(header, kindChunks))
		_, _, _, err := parseTrailer(trailer)
		damagedOrFine(t, err)
	})
}

func FuzzIndex(f *testing.F) {
	pages := []page{{60000, 1500, 5}, {59000, 1400, 0x01020304}}
	f.Add(appendIndex(nil, kindChunks, events.Hash{}, true, pages, []PackRef{{}, {}}), byte(kindChunks), int64(119074), uint64(2900))
	f.Add(appendIndex(nil, kindExtents, events.Hash{}, false, pages, nil), byte(kindExtents), int64(119074), uint64(2900))
	f.Fuzz(func(t *testing.T, b []byte, kind byte, end int64, rows uint64) {
		x := &file{ref: events.TableRef{Rows: rows}}
		if len(b) > 32 {
			copy(x.ref.Root[:], b)
		}
		err := x.parseIndex(b, kind, end)
		damagedOrFine(t, err)
		if err == nil && rows > 0 && (x.pageOf(rows-1) != len(x.pages)-1 || x.pageOf(rows) != -1 || x.pageOf(0) != 0) {
			t.Fatal("an index that was accepted does not find its rows")
		}
	})
}

func FuzzPages(f *testing.F) {
	var b1, b2 []byte
	_, chunks, extents := backup(20, 1)
	var last ChunkRow
	for _, r := range chunks {
		b1 = appendChunkRow(b1, r, last)
		last = r
	}
	var before extent
	for _, r := range extents {
		e := extent{r.Offset, r.Length, r.ChunkOffset, r.Chunk, r.Zero}
		b2 = appendExtent(b2, e, before)
		before = e.neighbour(before)
	}
	f.Add(b1, uint32(len(chunks)), uint64(0))
	f.Add(b2, uint32(len(extents)), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, rows uint32, first uint64) {
		got, err := decodeChunkPage(b, rows, 3)
		damagedOrFine(t, err)
		if err == nil {
			var again []byte
			var last ChunkRow
			for _, r := range got {
				again = appendChunkRow(again, r, last)
				last = r
			}
			if again, err := decodeChunkPage(again, rows, 3); err != nil || !slices.Equal(again, got) {
				t.Fatalf("rows do not survive: %v", err)
			}
		}
		es, err := decodeExtentPage(b, rows, first)
		damagedOrFine(t, err)
		if err == nil && !slices.IsSortedFunc(es, func(a, b extent) int { return cmp.Compare(a.end(), b.end()) }) {
			t.Fatal("accepted extents do not ascend")
		}
	})
}

// What the maps of one set of pages keep of their tables has one bound, and what is
// near what was read last is not read again.
func TestMapsShareTheirPages(t *testing.T) {
	v := newVault(t)
	r := rand.New(rand.NewPCG(8, 8))
	const blocks = 2000
	pages := NewPages()
	pages.cache.limit = 64 << 10
	type shown struct {
		disk reference
		m    *Map
	}
	var all []shown
	for range 5 {
		disk := make(reference, blocks)
		pd := events.PointDisk{Size: blocks * block}
		for l := range 3 {
			pd = pushLayer(t, v, r, disk, pd, byte(l+1), l == 0)
		}
		m, err := pages.OpenMap(ctx, v, pd)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, shown{disk, m})
	}
	for range 200 {
		s := all[r.IntN(len(all))]
		from := int64(r.IntN(blocks)) * block
		to := min(from+64*block, blocks*block)
		s.disk.check(t, collect(t, s.m.Range(ctx, from, to)), from, to)
		used := 0
		for e := pages.cache.order.Front(); e != nil; e = e.Next() {
			used += e.Value.(*entry).bytes
		}
		if used != pages.cache.used || used > pages.cache.limit && pages.cache.order.Len() > 1 {
			t.Fatalf("%d pages of %d bytes are kept, %d are counted", pages.cache.order.Len(), used, pages.cache.used)
		}
	}
	pages.cache.limit = defaultCache
	for range collect(t, all[0].m.Range(ctx, 0, blocks*block)) {
	}
	all[0].m.layers[0].extents.v = nil // whoever reads again panics
	all[0].disk.check(t, collect(t, all[0].m.Range(ctx, 0, blocks*block)), 0, blocks*block)
}
