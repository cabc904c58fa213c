package uploader

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// yard is a vault and a job that fills packs in it.
type yard struct {
	testing.TB
	v    *vault.Vault
	ids  *chunk.IDs
	job  id.Job
	work *flow.Work
	rnd  *rand.ChaCha8
}

func newYard(t testing.TB) *yard {
	t.Helper()
	st, err := dir.Open(t.TempDir())
	must(t, err)
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: kdf})
	must(t, err)
	key, err := v.Keys.IDKey(v.Config.DefaultDomain)
	must(t, err)
	return &yard{TB: t, v: v, ids: chunk.NewIDs(key), job: id.NewJob(), rnd: rand.NewChaCha8([32]byte{1}), work: &flow.Work{
		Guests: []flow.WorkGuest{{ID: id.Guest{1}}, {ID: id.Guest{2}}},
		Disks:  []flow.WorkDisk{{Info: events.DiskInfo{Disk: id.Disk{1}}}, {Guest: 1, Info: events.DiskInfo{Disk: id.Disk{2}}}},
	}}
}

func (y *yard) open() *load {
	y.Helper()
	p, err := vault.NewPackWriter(y.Context(), y.v.Store, y.v.Keys, y.job, y.v.Config.DefaultDomain)
	must(y, err)
	y.Cleanup(p.Abort)
	return newLoad(p, time.Now())
}

// sealed is a parcel as seal sends it, one piece for each of raws, and its slot.
func (y *yard) sealed(disk uint32, raws ...[]byte) (*flow.Parcel, []byte) {
	y.Helper()
	none, err := vault.NewCodec("none")
	must(y, err)
	p, slot := &flow.Parcel{Disk: disk, Offset: 1 << 20}, []byte{}
	for _, raw := range raws {
		x := flow.Piece{Offset: uint32(p.Length), Length: uint32(len(raw)), Verdict: flow.New, Chunk: y.ids.ID(raw), At: uint32(len(slot))}
		slot, err = y.v.Keys.SealChunk(slot, y.v.Config.DefaultDomain, x.Chunk, none.Encode(nil, raw))
		must(y, err)
		x.Stored = uint32(len(slot)) - x.At
		p.Pieces = append(p.Pieces, x)
		p.Length += int64(len(raw))
	}
	p.Claim = arena.Claim{Generation: 1, Length: uint32(len(slot))}
	return p, slot
}

func (y *yard) noise(n int) []byte {
	b := make([]byte, n)
	_, _ = y.rnd.Read(b)
	return b
}

// TestPiecesAreWhereTheParcelSays, twins of one parcel and of two among them, and
// the footer tells the same story for who has only the pack.
func TestPiecesAreWhereTheParcelSays(t *testing.T) {
	y := newYard(t)
	a, b, c := y.noise(5000), y.noise(70_000), y.noise(1)
	l := y.open()
	var parcels []*flow.Parcel
	raws := [][][]byte{{a, b, a}, {c, b}, {a}}
	for n, r := range raws {
		p, slot := y.sealed(uint32(n%2), r...)
		p.Pieces = append(p.Pieces, flow.Piece{Offset: uint32(p.Length), Length: 9, Zero: true, Verdict: flow.New}, flow.Piece{Offset: uint32(p.Length) + 9, Length: 9, Verdict: flow.Known, Chunk: id.Chunk{1}})
		must(t, l.add(y.work, p, slot))
		clear(slot) // it is another parcel's from now on
		parcels = append(parcels, p)
	}
	ref, err := l.close(t.Context())
	must(t, err)
	if ref.Chunks != 3 || ref.Raw != int64(len(a)+len(b)+len(c)) {
		t.Errorf("pack %+v", ref)
	}
	info, err := vault.ReadPackFooter(t.Context(), y.v.Store, y.v.Keys, y.job, ref.Name)
	must(t, err)
	if info.Size != ref.Size || info.DataKey != ref.Key || len(info.Entries) != 3 || len(info.Disks) != 2 || info.Disks[1] != (vault.PackDisk{Guest: id.Guest{2}, Disk: id.Disk{2}}) {
		t.Errorf("footer %+v", info)
	}
	if e := info.Entries[1]; e.GuestOffset != 1<<20+int64(len(a)) || e.Disk != 0 {
		t.Errorf("the second chunk is from %d of disk %d", e.GuestOffset, e.Disk)
	}
	pack, err := store.ReadAll(t.Context(), y.v.Store, vault.PackName(y.job, ref.Name), vault.MaxPack)
	must(t, err)
	for n, p := range parcels {
		for i, x := range p.Pieces[:len(raws[n])] {
			plain, err := y.v.Keys.Decode(y.v.Config.DefaultDomain, x.Chunk, pack[x.At:x.At+x.Stored], nil, y.ids)
			if err != nil || !bytes.Equal(plain, raws[n][i]) {
				t.Errorf("parcel %d, piece %d: %v", n, i, err)
			}
		}
	}
}

// TestSplicesSayWhereTheyWereRead: the footer has the first place of each part, also
// when a twin follows or lies between, and a half splice is no splice.
func TestSplicesSayWhereTheyWereRead(t *testing.T) {
	y := newYard(t)
	p, slot := y.sealed(0, y.noise(30), y.noise(100))
	whole, splice := p.Pieces[0], p.Pieces[1]
	part := func(at, from, n uint32) flow.Piece {
		x := splice
		x.Offset, x.From, x.Length, x.Raw = at, from, n, 100
		return x
	}
	whole.Offset = 10
	p.Pieces = flow.Pieces{part(0, 0, 10), whole, part(40, 10, 20), part(60, 30, 30), {Offset: 90, Length: 10, Verdict: flow.Unchanged}, part(100, 60, 40), part(140, 0, 50), part(190, 50, 50)}
	l := y.open()
	if l.fits(p) || !spliced(p) {
		t.Error("a pack of whole chunks has room for a splice")
	}
	begun, err := vault.NewPartsWriter(t.Context(), y.v.Store, y.v.Keys, y.job, y.v.Config.DefaultDomain)
	must(t, err)
	l = newLoad(begun, time.Now())
	if !l.fits(p) {
		t.Error("no room")
	}
	half := *p
	half.Pieces = flow.Pieces{part(0, 0, 10), part(40, 10, 20)}
	if err := l.add(y.work, &half, slot); err == nil {
		t.Error("half a splice was taken")
	}
	must(t, l.add(y.work, p, slot))
	ref, err := l.close(t.Context())
	must(t, err)
	info, err := vault.ReadPackFooter(t.Context(), y.v.Store, y.v.Keys, y.job, ref.Name)
	must(t, err)
	want := []vault.PackRange{{Offset: 1 << 20, Length: 10}, {Offset: 1<<20 + 40, Length: 50}, {Offset: 1<<20 + 100, Length: 40}}
	if len(info.Entries) != 2 || !slices.Equal(info.Entries[0].Parts, want) || info.Entries[1].Parts != nil || info.Entries[1].GuestOffset != 1<<20+10 {
		t.Errorf("footer %+v", info.Entries)
	}
	for i, x := range p.Pieces {
		if x.Verdict == flow.New && x.Chunk == splice.Chunk && x.At != info.Entries[0].Offset {
			t.Errorf("piece %d is at %d, its chunk at %d", i, x.At, info.Entries[0].Offset)
		}
	}
}

// TestWhatFitsIsTaken: as long as fits says yes, add does not find the pack full,
// by bytes or by chunks, and one parcel always fits an empty pack.
func TestWhatFitsIsTaken(t *testing.T) {
	y := newYard(t)
	for name, c := range map[string]struct{ pieces, size int }{
		"bytes, parcels of 4 MiB":  {4, 1 << 20},
		"bytes, parcels of 32 MiB": {32, 1<<20 + 100},
		"chunks":                   {9000, 60},
	} {
		t.Run(name, func(t *testing.T) {
			l := y.open()
			n := 0
			for ; ; n++ {
				p := &flow.Parcel{Claim: arena.Claim{Generation: 1, Length: uint32(c.pieces * c.size)}}
				for i := range c.pieces {
					x := flow.Piece{Offset: uint32(i), Length: 1, Verdict: flow.New, At: uint32(i * c.size), Stored: uint32(c.size)}
					_, _ = y.rnd.Read(x.Chunk[:])
					p.Pieces = append(p.Pieces, x)
				}
				if !l.fits(p) {
					break
				}
				must(t, l.add(y.work, p, make([]byte, c.pieces*c.size)))
			}
			if n == 0 {
				t.Error("an empty pack has no room")
			}
			_, err := l.close(t.Context())
			must(t, err)
		})
	}
}

func TestRefused(t *testing.T) {
	y := newYard(t)
	for name, spoil := range map[string]func(p *flow.Parcel){
		"no such disk":       func(p *flow.Parcel) { p.Disk = 2 },
		"not sealed":         func(p *flow.Parcel) { p.Pieces[1].Stored = 0 },
		"beyond the slot":    func(p *flow.Parcel) { p.Pieces[1].Stored++ },
		"a piece that wraps": func(p *flow.Parcel) { p.Pieces[1].At = ^uint32(0) - 5 },
	} {
		p, slot := y.sealed(0, y.noise(100), y.noise(100))
		spoil(p)
		var f *flow.Fault
		if err := y.open().add(y.work, p, slot); !errors.As(err, &f) || f.Class != flow.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheVaultSaysNo: what the store says decides what becomes of the job.
func TestTheVaultSaysNo(t *testing.T) {
	y := newYard(t)
	l := y.open()
	p, slot := y.sealed(0, y.noise(100))
	l.pack.Abort() // as after a failed write: nothing goes into it any more
	var f *flow.Fault
	if err := l.add(y.work, p, slot); !errors.As(err, &f) || f.Class != flow.Halt {
		t.Errorf("got %v", err)
	}
	if _, err := y.open().close(t.Context()); err == nil {
		t.Error("an empty pack was closed")
	}
}
