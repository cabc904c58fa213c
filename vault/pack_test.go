package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

var (
	diskA = PackDisk{id.Guest{0xa}, id.Disk{0xa1}}
	diskB = PackDisk{id.Guest{0xb}, id.Disk{0xb1}}
)

// filled writes a pack of n chunks, alternating between two disks, and returns
// its plain contents by chunk.
func filled(t testing.TB, v *Vault, st store.Store, n int) (PackInfo, map[id.Chunk][]byte) {
	t.Helper()
	d := v.Config.DefaultDomain
	w, err := NewPackWriter(t.Context(), st, v.Keys, testJob, d)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := NewCodec("auto")
	if err != nil {
		t.Fatal(err)
	}
	x := newIDs(t, v)
	plain := map[id.Chunk][]byte{}
	r := rand.New(rand.NewChaCha8([32]byte{byte(n)}))
	for i := range n {
		content := bytes.Repeat(fmt.Appendf(nil, "chunk %d of the guest; ", i), 1+r.IntN(3000))
		c := x.ID(content)
		sealed, err := v.Keys.SealChunk(nil, d, c, codec.Encode(nil, content))
		if err != nil {
			t.Fatal(err)
		}
		before := w.Size()
		offset, err := w.Add(PackEntry{Chunk: c, GuestOffset: int64(i) << 20, Raw: uint32(len(content))}, []PackDisk{diskA, diskB}[i%2], sealed)
		if err != nil || int64(offset) != before || w.Size() != before+int64(len(sealed)) || w.Len() != i+1 {
			t.Fatalf("chunk %d at %d: size %d, %d chunks: %v", i, offset, w.Size(), w.Len(), err)
		}
		plain[c] = content
	}
	info, err := w.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info, plain
}

func TestPackComesBack(t *testing.T) {
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	v, _ := newVault(t, st)
	for _, n := range []int{1, 2, 300, 3000} { // the last one's footer needs a second read
		wrote, plain := filled(t, v, st, n)
		info, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, wrote.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(info, wrote) {
			t.Errorf("%d chunks: footer differs from what was written", n)
		}
		whole, err := store.ReadAll(t.Context(), st, PackName(testJob, info.Name), MaxPack)
		if err != nil || id.Sum(whole) != info.Name || int64(len(whole)) != info.Size {
			t.Fatalf("%d chunks: the pack's name is not its hash: %v", n, err)
		}
		x := newIDs(t, v)
		if len(info.Entries) != n {
			t.Fatalf("%d entries of %d", len(info.Entries), n)
		}
		for i, e := range info.Entries {
			got, err := v.Keys.Decode(info.Domain, e.Chunk, whole[e.Offset:e.Offset+e.Stored], nil, x)
			if err != nil || !bytes.Equal(got, plain[e.Chunk]) || len(got) != int(e.Raw) {
				t.Fatalf("chunk %d: %v", i, err)
			}
			if e.GuestOffset != int64(i)<<20 || info.Disks[e.Disk] != []PackDisk{diskA, diskB}[i%2] {
				t.Errorf("chunk %d is said to be of %v at %d", i, info.Disks[e.Disk], e.GuestOffset)
			}
		}
	}
}

// Only the footer's keys are needed to list a pack, only the data keys to write
// one without reading it back; each is refused without.
func TestPackNeedsItsKeys(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	info, _ := filled(t, v, st, 3)
	only := func(parts Part) *Keys {
		grant, err := v.Keys.Grant(parts)
		if err != nil {
			t.Fatal(err)
		}
		k, err := LoadGrant(grant)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if _, err := ReadPackFooter(t.Context(), st, only(PartMeta), testJob, info.Name); err != nil {
		t.Errorf("with the meta keyset: %v", err)
	}
	if _, err := ReadPackFooter(t.Context(), st, only(PartData), testJob, info.Name); !errors.Is(err, ErrNoPart) {
		t.Errorf("without the meta keyset: %v", err)
	}
	for _, parts := range []Part{PartMeta, PartData} {
		if _, err := NewPackWriter(t.Context(), st, only(parts), testJob, v.Config.DefaultDomain); !errors.Is(err, ErrNoPart) {
			t.Errorf("writing with parts %05b: %v", parts, err)
		}
	}
	if _, err := NewPackWriter(t.Context(), st, v.Keys, testJob, id.Domain{1}); !errors.Is(err, ErrNoDomain) {
		t.Errorf("writing in a domain that is not: %v", err)
	}
}

func TestPackLimits(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	w, err := NewPackWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context()); err == nil {
		t.Error("a pack of nothing was made")
	}
	if w, err = NewPackWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain); err != nil {
		t.Fatal(err)
	}
	for what, e := range map[string]PackEntry{"no content": {}, "too long": {Raw: MaxChunk + 1}, "before the disk": {Raw: 1, GuestOffset: -1}} {
		if _, err := w.Add(e, diskA, make([]byte, 100)); err == nil || errors.Is(err, ErrPackFull) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := w.Add(PackEntry{Raw: 1}, diskA, make([]byte, Overhead-1)); err == nil {
		t.Error("bytes too few to be sealed were taken")
	}
	sealed := make([]byte, 1<<20)
	n := 0
	for ; ; n++ {
		if full := w.Size() >= PackTarget; w.Full() != full {
			t.Errorf("%d bytes: full is %v", w.Size(), w.Full())
		}
		_, err := w.Add(PackEntry{Raw: 1}, diskA, sealed)
		if errors.Is(err, ErrPackFull) {
			break
		}
		if err != nil || n > 64 {
			t.Fatal(n, err)
		}
	}
	info, err := w.Close(t.Context())
	if err != nil || info.Size > MaxPack || n != 63 || len(info.Entries) != n {
		t.Errorf("%d chunks, %d bytes: %v", n, info.Size, err)
	}
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); err != nil {
		t.Error(err)
	}
	if _, err := w.Add(PackEntry{Raw: 1}, diskA, sealed); err == nil {
		t.Error("a closed pack took a chunk")
	}
}

func TestMostEntriesOfAPack(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	w, err := NewPackWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	sealed := make([]byte, Overhead)
	for range MaxPackEntries {
		if _, err := w.Add(PackEntry{Raw: 1}, diskA, sealed); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Add(PackEntry{Raw: 1}, diskA, sealed); !errors.Is(err, ErrPackFull) || !w.Full() {
		t.Errorf("one more: %v", err)
	}
	info, err := w.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); err != nil || len(got.Entries) != MaxPackEntries {
		t.Errorf("%d entries: %v", len(got.Entries), err)
	}
}

func TestAbortedPackLeavesNothing(t *testing.T) {
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	v, _ := newVault(t, st)
	w, err := NewPackWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(PackEntry{Raw: 1}, diskA, make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if _, err := w.Close(t.Context()); err == nil {
		t.Error("an aborted pack was closed")
	}
	for e, err := range st.List(t.Context(), "packs/") {
		t.Errorf("%s is left: %v", e.Name, err)
	}
}

// Every byte of header, footer and trailer is covered, without reading a chunk.
func TestEveryByteOfAPacksEndsCounts(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	info, _ := filled(t, v, st, 20)
	name := PackName(testJob, info.Name)
	whole := st.objects[name]
	last := info.Entries[len(info.Entries)-1]
	for at := range whole {
		if at == packHeader {
			at = int(last.Offset + last.Stored)
		}
		if at > packHeader && at < int(last.Offset+last.Stored) {
			continue
		}
		bad := bytes.Clone(whole)
		bad[at] ^= 0x10
		st.objects[name] = bad
		if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("byte %d of %d: %v", at, len(whole), err)
		}
	}
	for _, n := range []int{0, 1, packHeader, packHeader + packTrailer, len(whole) / 2, len(whole) - 1} {
		st.objects[name] = whole[:n]
		if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	st.objects[name] = append(bytes.Clone(whole), 0)
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte longer: %v", err)
	}
	delete(st.objects, name)
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); !errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrDamaged) {
		t.Errorf("gone: %v", err)
	}
}

// A footer tells of one pack only, although packs of equal shape have footers of
// equal shape.
func TestFooterOfAnotherPack(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	one, _ := filled(t, v, st, 20)
	two, _ := filled(t, v, st, 20)
	if one.Size != two.Size || one.Name == two.Name {
		t.Fatalf("the packs should differ in their bytes alone: %d and %d bytes", one.Size, two.Size)
	}
	a, b := st.objects[PackName(testJob, one.Name)], st.objects[PackName(testJob, two.Name)]
	end := one.Entries[19].Offset + one.Entries[19].Stored
	st.objects[PackName(testJob, one.Name)] = append(bytes.Clone(a[:end]), b[end:]...)
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, one.Name); !errors.Is(err, ErrDamaged) {
		t.Errorf("footer of another pack: %v", err)
	}
	// The pack of another job, another vault.
	other := id.Job{7}
	st.objects[PackName(other, two.Name)] = b
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, other, two.Name); !errors.Is(err, ErrDamaged) {
		t.Errorf("pack of another job: %v", err)
	}
	foreign := newMemory()
	w, _ := newVault(t, foreign)
	foreign.objects[PackName(testJob, two.Name)] = b
	if _, err := ReadPackFooter(t.Context(), foreign, w.Keys, testJob, two.Name); !errors.Is(err, ErrDamaged) {
		t.Errorf("pack of another vault: %v", err)
	}
	// Two chunks changing places keep the pack readable, but not the chunks.
	e, f := two.Entries[0], two.Entries[1]
	x := newIDs(t, v)
	if _, err := v.Keys.Decode(two.Domain, e.Chunk, b[f.Offset:f.Offset+f.Stored], nil, x); !errors.Is(err, ErrDamaged) {
		t.Errorf("a chunk in another's place: %v", err)
	}
}

// A footer that its own vault sealed may still be wrong, after a bug or by malice
// of a host: nothing in it is believed.
func TestFootersThatLie(t *testing.T) {
	v, _ := newVault(t, newMemory())
	sound := func() PackInfo {
		return PackInfo{Job: testJob, Domain: v.Config.DefaultDomain, Disks: []PackDisk{diskA}, Entries: []PackEntry{
			{Chunk: id.Chunk{1}, Offset: uint32(packHeader), Stored: 100, Raw: 60}, {Chunk: id.Chunk{2}, Offset: uint32(packHeader) + 100, Stored: 50, Raw: 5},
		}}
	}
	read := func(p PackInfo, plain []byte) error {
		st := newMemory()
		pack := appendPackHeader(nil, v.ID, &p, [16]byte{9})
		header := bytes.Clone(pack)
		pack = append(pack, make([]byte, 150)...)
		footer, err := v.Keys.SealMeta(nil, TypePackFooter, footerBinding(header, int64(len(pack))), plain)
		if err != nil {
			t.Fatal(err)
		}
		pack = appendTrailer(append(pack, footer...), footer)
		name := id.Sum(pack)
		st.objects[PackName(p.Job, name)] = pack
		_, err = ReadPackFooter(t.Context(), st, v.Keys, p.Job, name)
		return err
	}
	p := sound()
	if err := read(p, appendFooter(nil, &p)); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*PackInfo){
		"a gap":               func(p *PackInfo) { p.Entries[1].Offset++ },
		"an overlap":          func(p *PackInfo) { p.Entries[1].Offset-- },
		"into the header":     func(p *PackInfo) { p.Entries[0].Offset = 0 },
		"into the footer":     func(p *PackInfo) { p.Entries[1].Stored += 40 },
		"beyond 4 GiB":        func(p *PackInfo) { p.Entries[1].Stored = 1<<32 - 1 },
		"too short":           func(p *PackInfo) { p.Entries[1].Stored = 10 },
		"a chunk less":        func(p *PackInfo) { p.Entries = p.Entries[:1] },
		"no chunk":            func(p *PackInfo) { p.Entries = nil },
		"no such disk":        func(p *PackInfo) { p.Entries[1].Disk = 1 },
		"no disk":             func(p *PackInfo) { p.Disks = nil },
		"before the disk":     func(p *PackInfo) { p.Entries[0].GuestOffset = -5 },
		"empty chunk":         func(p *PackInfo) { p.Entries[0].Raw = 0 },
		"chunk beyond a cell": func(p *PackInfo) { p.Entries[0].Raw = MaxChunk + 1 },
	} {
		p := sound()
		change(&p)
		if err := read(p, appendFooter(nil, &p)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	whole := appendFooter(nil, &p)
	for n := range whole {
		if err := read(p, whole[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
	if err := read(p, append(whole, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

// TestPartsThatLie: neither written nor read.
func TestPartsThatLie(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	sound := func() PackEntry {
		return PackEntry{GuestOffset: 100, Offset: uint32(packHeader), Stored: 100, Raw: 30, Parts: []PackRange{{Offset: 100, Length: 10}, {Offset: 120, Length: 15}, {Offset: 1000, Length: 5}}}
	}
	w, err := NewPartsWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*PackEntry){
		"another beginning":  func(e *PackEntry) { e.GuestOffset = 101 },
		"too short in all":   func(e *PackEntry) { e.Parts[2].Length-- },
		"too long in all":    func(e *PackEntry) { e.Raw-- },
		"one":                func(e *PackEntry) { e.Parts = []PackRange{{Offset: 100, Length: 30}} },
		"none":               func(e *PackEntry) { e.Parts = []PackRange{} },
		"out of order":       func(e *PackEntry) { e.Parts[2].Offset = 110 },
		"over one another":   func(e *PackEntry) { e.Parts[1].Offset = 109 },
		"next to each other": func(e *PackEntry) { e.Parts[1].Offset = 110 },
		"empty":              func(e *PackEntry) { e.Parts[1].Length, e.Raw = 0, 15 },
		"before the disk":    func(e *PackEntry) { e.GuestOffset, e.Parts[0].Offset = -100, -100 },
		"beyond all disks":   func(e *PackEntry) { e.Parts[2].Offset = 1<<63 - 5 },
		"wrapping":           func(e *PackEntry) { e.Parts[2].Offset = 1<<63 - 3 },
	} {
		e := sound()
		change(&e)
		if _, err := w.Add(e, diskA, make([]byte, 100)); err == nil {
			t.Errorf("%s is written: %v", what, err)
		}
		p := PackInfo{InParts: true, Disks: []PackDisk{diskA}, Entries: []PackEntry{e}}
		var got PackInfo
		got.InParts = true
		if err := parseFooter(&got, appendFooter(nil, &p), int64(packHeader)+100); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s is read: %v", what, err)
		}
	}
	p := PackInfo{InParts: true, Disks: []PackDisk{diskA}, Entries: []PackEntry{sound()}}
	whole := appendFooter(nil, &p)
	for n := range len(whole) {
		if err := parseFooter(&PackInfo{InParts: true}, whole[:n], int64(packHeader)+100); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
	if err := parseFooter(&PackInfo{InParts: true}, append(bytes.Clone(whole), 0), int64(packHeader)+100); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
	twice := append(bytes.Clone(whole), whole[len(whole)-6-3*12:]...)
	twice[len(whole)-6-3*12-1] = 2
	if err := parseFooter(&PackInfo{InParts: true}, twice, int64(packHeader)+100); !errors.Is(err, ErrDamaged) {
		t.Errorf("an entry twice: %v", err)
	}
	// A pack that was begun for whole chunks says so and stays what it is.
	if w, err = NewPackWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(sound(), diskA, make([]byte, 100)); err == nil || w.Len() != 0 {
		t.Errorf("a pack of format 1 took a chunk in parts: %v", err)
	}
}

// TestMostRangesOfAPack: they are bounded, and a footer of all of them is read.
func TestMostRangesOfAPack(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	w, err := NewPartsWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	parts := make([]PackRange, 1<<15)
	for i := range parts {
		parts[i] = PackRange{Offset: int64(i) * 2, Length: 1}
	}
	e := PackEntry{Raw: 1 << 15, Parts: parts}
	for range MaxPackRanges / len(parts) {
		if _, err := w.Add(e, diskA, make([]byte, Overhead)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Add(e, diskA, make([]byte, Overhead)); !errors.Is(err, ErrPackFull) || !w.Full() || w.Ranges() != MaxPackRanges {
		t.Errorf("one more: %v", err)
	}
	info, err := w.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name)
	if err != nil || !reflect.DeepEqual(got, info) {
		t.Errorf("%d chunks: %v", len(got.Entries), err)
	}
}

// broken fails one call of an upload.
type broken struct {
	*memory
	writes int
	commit error
}

func (b *broken) Begin(ctx context.Context) (store.Upload, error) {
	up, err := store.Begin(ctx, b.memory)
	return &brokenUpload{up, b}, err
}

type brokenUpload struct {
	store.Upload
	b *broken
}

func (u *brokenUpload) Write(p []byte) (int, error) {
	if u.b.writes--; u.b.writes == 0 {
		return 0, fmt.Errorf("write: %w", store.ErrFull)
	}
	return u.Upload.Write(p)
}

func (u *brokenUpload) Commit(ctx context.Context, name string) error {
	if err := u.Upload.Commit(ctx, name); err != nil {
		return err
	}
	return u.b.commit
}

func TestPackOnAFailingStore(t *testing.T) {
	m := newMemory()
	v, _ := newVault(t, m)
	for fail := 1; fail <= 4; fail++ {
		b := &broken{memory: m, writes: fail}
		w, err := NewPackWriter(t.Context(), b, v.Keys, testJob, v.Config.DefaultDomain)
		if err == nil {
			for range 2 {
				if _, err = w.Add(PackEntry{Raw: 1}, diskA, make([]byte, 100)); err != nil {
					break
				}
			}
			if _, closed := w.Close(t.Context()); err == nil {
				err = closed
			} else if closed == nil {
				t.Errorf("write %d failed and Close did not", fail)
			}
		}
		if !errors.Is(err, store.ErrFull) || strings.HasPrefix(err.Error(), "failed") {
			t.Errorf("write %d: %v", fail, err)
		}
	}
	if n := len(m.names("packs/")); n != 0 {
		t.Errorf("%d packs of failed uploads", n)
	}
	for _, each := range []struct{ says, want error }{{store.ErrExists, nil}, {io.ErrClosedPipe, io.ErrClosedPipe}} {
		w, err := NewPackWriter(t.Context(), &broken{memory: m, commit: each.says}, v.Keys, testJob, v.Config.DefaultDomain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = w.Add(PackEntry{Raw: 1}, diskA, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if _, err = w.Close(t.Context()); !errors.Is(err, each.want) {
			t.Errorf("a commit that says %v gives %v", each.says, err)
		}
	}
}

func FuzzPackTrailer(f *testing.F) {
	f.Add(appendTrailer(nil, make([]byte, 100)), int64(1000))
	f.Add(make([]byte, packTrailer), int64(MaxPack))
	f.Fuzz(func(t *testing.T, trailer []byte, size int64) {
		n, _, err := parseTrailer(trailer, size)
		if err == nil && (n < Overhead || n > maxFooter || int64(n) > size) {
			t.Fatalf("footer of %d bytes in a pack of %d", n, size)
		}
	})
}

func FuzzPackHeader(f *testing.F) {
	v := id.Vault{1}
	for _, parts := range []bool{false, true} {
		f.Add(appendPackHeader(nil, v, &PackInfo{Job: testJob, Domain: id.Domain{2}, DataKey: 3, InParts: parts}, [16]byte{4}))
	}
	f.Fuzz(func(t *testing.T, header []byte) {
		var info PackInfo
		if err := parsePackHeader(&info, v, header); err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		again := appendPackHeader(nil, v, &info, [16]byte(header[packHeader-16:]))
		if !bytes.Equal(again, header) {
			t.Fatalf("%x is read and written as %x", header, again)
		}
	})
}

func FuzzPackFooter(f *testing.F) {
	p := PackInfo{Disks: []PackDisk{diskA, diskB}, Entries: []PackEntry{{Chunk: id.Chunk{1}, Offset: uint32(packHeader), Stored: 100, Raw: 9}}}
	f.Add(appendFooter(nil, &p), int64(packHeader+100), false)
	f.Add(binary.BigEndian.AppendUint32([]byte{0, 0}, 1<<31), int64(packHeader), false)
	q := p
	q.InParts = true
	f.Add(appendFooter(nil, &q), int64(packHeader+100), true)
	q.Entries = []PackEntry{{Chunk: id.Chunk{1}, Offset: uint32(packHeader), Stored: 100, Raw: 9, Parts: []PackRange{{Offset: 0, Length: 4}, {Offset: 1 << 40, Length: 5}}}}
	f.Add(appendFooter(nil, &q), int64(packHeader+100), true)
	f.Fuzz(func(t *testing.T, plain []byte, end int64, parts bool) {
		info := PackInfo{InParts: parts}
		if err := parseFooter(&info, plain, end); err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if again := appendFooter(nil, &info); !bytes.Equal(again, plain) {
			t.Fatalf("%x is read and written as %x", plain, again)
		}
		for _, e := range info.Entries {
			if int64(e.Offset)+int64(e.Stored) > end || int(e.Disk) >= len(info.Disks) {
				t.Fatalf("an entry outside the pack: %+v", e)
			}
			var n uint64
			for _, r := range e.Places() {
				n += uint64(r.Length)
			}
			if n != uint64(e.Raw) {
				t.Fatalf("a chunk of %d bytes in %d", e.Raw, n)
			}
		}
	})
}

// The whole reader on foreign bytes whose checksum is right.
func FuzzReadPackFooter(f *testing.F) {
	m := newMemory()
	v, _ := newVault(f, m)
	info, _ := filled(f, v, m, 2)
	f.Add(m.objects[PackName(testJob, info.Name)])
	if pack, err := os.ReadFile(goldenParts); err == nil {
		f.Add(pack)
	}
	f.Fuzz(func(t *testing.T, pack []byte) {
		if n := len(pack) - packTrailer; n >= 0 {
			if length := int64(binary.BigEndian.Uint32(pack[n:])); length <= int64(n) {
				sum := crc32.Checksum(pack[int64(n)-length:n], crc32.MakeTable(crc32.Castagnoli))
				pack = bytes.Clone(pack)
				binary.BigEndian.PutUint32(pack[n+4:], sum)
			}
		}
		st := newMemory()
		st.objects[PackName(testJob, id.Object{})] = pack
		_, err := ReadPackFooter(context.Background(), st, v.Keys, testJob, id.Object{})
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("an error of no kind: %v", err)
		}
	})
}
