package restore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Wherever a bit of the vault flips, a restore gives the right bytes or an error
// that calls it damage and names the object; never other bytes.
func TestFlippedBitsNeverComeThrough(t *testing.T) {
	f := newFixture(t, "auto")
	content := mixed()[:6*mib]
	d := f.backup("disk", content)
	r := rand.New(rand.NewPCG(1, 2))
	harmless, found := 0, 0
	for _, path := range append(f.objects("packs/"), f.objects("tables/")...) {
		size := fileSize(t, path)
		for range 60 {
			back := spoil(t, path, flip(r.IntN(size)))
			m := newMemory(d.Size)
			err := Disk(t.Context(), f.v, d, m, Options{})
			switch {
			case err == nil && !bytes.Equal(m.b, content):
				t.Fatalf("%s: other bytes were restored without an error", path)
			case err == nil:
				harmless++ // header or footer of a pack: a restore does not use them
			case !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer): // the format stands in clear
				t.Fatalf("%s: %v is not called damage", path, err)
			case !strings.Contains(err.Error(), filepath.Base(path)):
				t.Fatalf("the error does not name %s: %v", filepath.Base(path), err)
			default:
				found++
				for i, b := range m.b {
					if b != 0 && b != content[i] {
						t.Fatalf("%s: byte %d is wrong on the target", path, i)
					}
				}
			}
			back()
		}
	}
	t.Logf("%d flips found, %d harmless", found, harmless)
	if found < 10*harmless {
		t.Errorf("only %d flips were found, %d were not", found, harmless)
	}
}

func fileSize(t testing.TB, path string) int {
	info, err := os.Stat(path)
	must(t, err)
	return int(info.Size())
}

// rangeBytes is how much of a disk a damage hits.
func rangeBytes(d Damage, disk id.Disk) (n int64) {
	for _, x := range d.Ranges {
		if x.Disk == disk {
			n += x.Length
		}
	}
	return n
}

func TestVerifyASoundPoint(t *testing.T) {
	f := newFixture(t, "auto")
	a, b := f.backup("a", mixed()), f.backup("b", text(9, 3*mib))
	zero := f.backup("zero", make([]byte, 9*mib))
	p := f.point(a, b, zero)
	c := &counting{Store: f.v.Store}
	f.v.Store = c
	for _, percent := range []int{0, 30, 100} {
		var last Progress
		r, err := Verify(t.Context(), f.v, p, Options{ReadPercent: percent, Progress: func(p Progress) { last = p }})
		if err != nil || r.Err() != nil || r.DamageCount != 0 {
			t.Fatalf("%d %%: %v, %+v", percent, err, r.Damages)
		}
		if r.Disks != 3 || r.Packs != len(f.packs) || r.Chunks != int64(len(f.rows)) || r.DiskBytes != a.Size+b.Size+zero.Size || r.DataBytes < 9*mib {
			t.Errorf("%d %%: %+v; %d packs and %d chunks are stored", percent, r, len(f.packs), len(f.rows))
		}
		low, high := r.Chunks*int64(percent)/200, r.Chunks*int64(percent)/50
		if percent == 100 && r.ReadCount != r.Chunks || r.ReadCount < low || r.ReadCount > high {
			t.Errorf("%d %%: %d of %d chunks were read", percent, r.ReadCount, r.Chunks)
		}
		if last.Done != r.DiskBytes {
			t.Errorf("%d %%: last progress %+v", percent, last)
		}
	}
	one, err := Verify(t.Context(), f.v, p, Options{ReadPercent: 30, Seed: 1})
	must(t, err)
	two, err := Verify(t.Context(), f.v, p, Options{ReadPercent: 30, Seed: 2})
	must(t, err)
	if one.ReadBytes == two.ReadBytes {
		t.Error("two seeds picked the same chunks")
	}
}

func TestVerifyNamesEveryDamage(t *testing.T) {
	f := newFixture(t, "none")
	f.limit = 16
	shared := noise(1, 2*mib)
	a := f.backup("a", append(bytes.Clone(shared), noise(2, 6*mib)...))
	b := f.backup("b", append(noise(3, 4*mib), shared...))
	p := f.point(a, b)
	// Three packs: one gone, one with a bad chunk, one cut short.
	gone, flipped, short := f.packOf(shared), f.packAt(3), f.packAt(len(f.packs)-1)
	must(t, os.Remove(filepath.Join(f.root, gone)))
	spoil(t, filepath.Join(f.root, flipped), flip(300*kib))
	spoil(t, filepath.Join(f.root, short), func(b []byte) []byte { return b[:len(b)/2] })

	structure, err := Verify(t.Context(), f.v, p, Options{})
	if !errors.Is(err, vault.ErrDamaged) || structure.DamageCount != 2 {
		t.Fatalf("without reading: %v, %d damages", err, structure.DamageCount)
	}
	r, err := Verify(t.Context(), f.v, p, Options{ReadPercent: 100})
	if !errors.Is(err, vault.ErrDamaged) || !errors.Is(r.Err(), vault.ErrDamaged) {
		t.Fatalf("verify: %v", err)
	}
	byObject := map[string][]Damage{}
	for _, d := range r.Damages {
		byObject[d.Object] = append(byObject[d.Object], d)
		if !errors.Is(d.Cause, vault.ErrDamaged) || len(d.Ranges) == 0 || !strings.Contains(d.Cause.Error(), d.Object) {
			t.Errorf("damage %+v", d)
		}
	}
	if len(byObject) != 3 || len(r.Damages) != r.DamageCount {
		t.Fatalf("%d objects in %d damages: %+v", len(byObject), r.DamageCount, r.Damages)
	}
	if d := byObject[gone]; len(d) != 1 || !d[0].Chunk.IsZero() || rangeBytes(d[0], a.Disk) == 0 || rangeBytes(d[0], b.Disk) == 0 {
		t.Errorf("the missing pack hits both disks: %+v", d)
	}
	if d := byObject[flipped]; len(d) != 1 || d[0].Chunk.IsZero() || rangeBytes(d[0], a.Disk)+rangeBytes(d[0], b.Disk) != int64(f.rows[d[0].Chunk].Raw) {
		t.Errorf("the flipped byte hits one chunk: %+v", d)
	}
	if d := byObject[short]; len(d) < 2 || !d[0].Chunk.IsZero() {
		t.Errorf("the short pack is a damage, and so is each chunk beyond its end: %d", len(d))
	}
	if facts := r.Facts(3); len(facts) != 3 || facts[0].Cause == "" || facts[0].Length <= 0 || facts[0].Pack.Pack.IsZero() {
		t.Errorf("facts: %+v", facts)
	}
	f.allLossIsReported(p, r)
}

// allLossIsReported reads each piece by itself and looks for those that are lost
// in the report.
func (f *fixture) allLossIsReported(p events.PointCommitted, r Report) {
	f.t.Helper()
	for _, d := range p.Disks {
		lost := map[int64]bool{}
		for _, x := range r.Damages {
			for _, y := range x.Ranges {
				for at := y.Offset; y.Disk == d.Disk && at < y.Offset+y.Length; at += 4096 {
					lost[at] = true
				}
			}
		}
		pieces, err := disk(f.t.Context(), f.v, d, 0)
		must(f.t, err)
		w := newReader(f.v).worker()
		for x, err := range pieces(f.t.Context()) {
			must(f.t, err)
			if x.zero {
				continue
			}
			failed := false
			err := w.batch(f.t.Context(), []piece{x}, sink{
				use:  func(piece, []byte) error { return nil },
				lost: func([]piece, error) error { failed = true; return nil },
			})
			must(f.t, err)
			if failed && !lost[x.offset] {
				f.t.Errorf("disk %s at %d is lost and the report does not say so", d.Key, x.offset)
			}
		}
	}
}

func (f *fixture) packAt(n int) string { return vault.PackName(f.packs[n].Job, f.packs[n].Name) }

// packOf is the pack of the first chunk of content.
func (f *fixture) packOf(content []byte) string {
	first := f.full(content)[0].chunk
	return f.packAt(int(f.rows[f.ids.ID(first)].Pack))
}

func TestVerifyDamagedFooterAndTables(t *testing.T) {
	f := newFixture(t, "auto")
	a, b := f.backup("a", noise(1, 5*mib)), f.backup("b", noise(2, 3*mib))
	p := f.point(a, b)
	pack := filepath.Join(f.root, f.packAt(0))
	back := spoil(t, pack, flip(fileSize(t, pack)-100)) // in the footer
	r, err := Verify(t.Context(), f.v, p, Options{ReadPercent: 100})
	if !errors.Is(err, vault.ErrDamaged) || r.DamageCount != 1 || r.Damages[0].Object != f.packAt(0) || r.ReadCount != r.Chunks {
		t.Errorf("damaged footer: %v, %+v", err, r)
	}
	back()
	for _, c := range []struct {
		name string
		ref  events.TableRef
		edit func([]byte) []byte
	}{
		{"extents, page", a.Extents[0], flip(120)},
		{"extents, format", a.Extents[0], flip(6)},
		{"extents, trailer", a.Extents[0], func(b []byte) []byte { return b[:len(b)-1] }},
		{"chunks, page", a.Chunks[0], flip(120)},
		{"chunks, empty", a.Chunks[0], func([]byte) []byte { return nil }},
	} {
		name := "tables/" + c.ref.Job.String() + "/" + c.ref.Name.String()
		back := spoil(t, filepath.Join(f.root, name), c.edit)
		r, err := Verify(t.Context(), f.v, p, Options{ReadPercent: 100})
		if !errors.Is(err, vault.ErrDamaged) || r.DamageCount != 1 || r.Damages[0].Object != name || rangeBytes(r.Damages[0], a.Disk) != a.Size || rangeBytes(r.Damages[0], b.Disk) != 0 {
			t.Errorf("%s: %v, %+v", c.name, err, r.Damages)
		}
		if r.ReadCount == 0 {
			t.Errorf("%s: the other disk was not read", c.name)
		}
		back()
		must(t, os.Rename(filepath.Join(f.root, name), filepath.Join(f.root, "saved")))
		r, err = Verify(t.Context(), f.v, p, Options{})
		if !errors.Is(err, vault.ErrDamaged) || r.DamageCount != 1 || r.Damages[0].Object != name {
			t.Errorf("%s missing: %v, %+v", c.name, err, r.Damages)
		}
		if err := Disk(t.Context(), f.v, a, newMemory(a.Size), Options{}); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("restore without table: %v", err)
		}
		must(t, os.Rename(filepath.Join(f.root, "saved"), filepath.Join(f.root, name)))
	}
}

// A pack in the place of another is found out by name, size or content.
func TestSwappedPacks(t *testing.T) {
	f := newFixture(t, "none")
	f.limit = 8
	d := f.backup("disk", noise(1, 4*mib))
	one, two := filepath.Join(f.root, f.packAt(0)), filepath.Join(f.root, f.packAt(1))
	must(t, os.Rename(one, one+"x"))
	must(t, os.Rename(two, one))
	must(t, os.Rename(one+"x", two))
	if err := Disk(t.Context(), f.v, d, newMemory(d.Size), Options{}); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("restore from swapped packs: %v", err)
	}
	if r, err := Verify(t.Context(), f.v, f.point(d), Options{}); !errors.Is(err, vault.ErrDamaged) || r.DamageCount == 0 {
		t.Errorf("verify of swapped packs: %v, %d damages", err, r.DamageCount)
	}
}

func TestAMissingStoreIsNotDamage(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", noise(1, mib))
	must(t, os.RemoveAll(f.root))
	_, err := Verify(t.Context(), f.v, f.point(d), Options{ReadPercent: 100})
	if !errors.Is(err, store.ErrNoStore) || errors.Is(err, vault.ErrDamaged) {
		t.Errorf("want ErrNoStore and no damage, got %v", err)
	}
}

func TestVerifyCancelled(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", mixed())
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Verify(ctx, f.v, f.point(d), Options{ReadPercent: 100, Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) || errors.Is(err, vault.ErrDamaged) || r.DamageCount != 0 {
		t.Errorf("want a cancelled check and no damage, got %v, %+v", err, r.Damages)
	}
}

// A worker granted no data keys must not report the whole vault as damaged.
func TestMissingKeysAreNotDamage(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", noise(1, mib))
	grant, err := f.v.Keys.Grant(vault.PartMeta)
	must(t, err)
	keys, err := vault.LoadGrant(grant)
	must(t, err)
	v := *f.v
	v.Keys = keys
	if r, err := Verify(t.Context(), &v, f.point(d), Options{}); err != nil {
		t.Errorf("following references needs the meta keys only: %v, %+v", err, r.Damages)
	}
	if _, err := Verify(t.Context(), &v, f.point(d), Options{ReadPercent: 100}); !errors.Is(err, vault.ErrNoPart) || errors.Is(err, vault.ErrDamaged) {
		t.Errorf("want ErrNoPart, got %v", err)
	}
}

// Bytes behind the end of a table hurt no reader; they are damage all the same.
func TestVerifySeesBytesBehindATable(t *testing.T) {
	f := newFixture(t, "s2")
	content := mixed()
	p := f.point(f.backup("disk", content))
	for _, path := range f.objects("tables/") {
		undo := spoil(t, path, func(b []byte) []byte { return append(b, 0) })
		r, err := Verify(t.Context(), f.v, p, Options{})
		if !errors.Is(err, vault.ErrDamaged) || len(r.Damages) != 1 || !strings.HasSuffix(path, filepath.FromSlash(r.Damages[0].Object)) {
			t.Errorf("%s: %v, %+v", path, err, r.Damages)
		}
		undo()
	}
}

// Whatever happens to a pack, its name tells.
func TestPack(t *testing.T) {
	f := newFixture(t, "s2")
	f.backup("disk", mixed())
	v := &vault.Vault{ID: f.v.ID, Config: f.v.Config, Store: f.v.Store} // without any key
	for n, path := range f.objects("packs/") {
		pack := f.packs[slices.IndexFunc(f.packs, func(p table.PackRef) bool { return p.Name.String() == filepath.Base(path) })]
		info, err := os.Stat(path)
		must(t, err)
		check := func() error { return Pack(t.Context(), v, pack.Job, pack.Name, info.Size()) }
		must(t, check())
		for _, edit := range []func([]byte) []byte{
			flip(n), flip(int(info.Size()) - 1), flip(int(info.Size()) / 2),
			func(b []byte) []byte { return b[:len(b)-1] },
			func(b []byte) []byte { return append(b, 0) },
		} {
			undo := spoil(t, path, edit)
			if err := check(); !errors.Is(err, vault.ErrDamaged) {
				t.Errorf("%s: %v", path, err)
			}
			undo()
		}
		must(t, os.Remove(path))
		if err := check(); !errors.Is(err, vault.ErrDamaged) {
			t.Errorf("%s removed: %v", path, err)
		}
	}
}
