package flips

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/bench/campaign/trial"
	"github.com/millrace-backup/millrace/bench/workload"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// base is an intact vault and all that is known about it.
type base struct {
	place   *rig.Place
	now     func() time.Time
	objects map[string][]byte   // by name
	kinds   []string            // types of objects that there are
	byKind  map[string][]string // names, in a fixed order
	foreign map[string][]byte   // an object of each type, from another vault
	secrets map[string]string   // the key object each secret opens: "password", "recovery"
	points  []*point
	packs   map[string]vault.PackInfo
}

// point is what a restore of it must give and what it rests on.
type point struct {
	events.PointCommitted
	sums   []([sha256.Size]byte) // of its disks
	tables map[string]bool
	uses   map[string][]use // by pack
}

// use is a range of a disk and where its chunk lies in a pack.
type use struct {
	chunk          id.Chunk
	at, stored     int64
	disk           id.Disk
	offset, length int64
}

const mib = 1 << 20

// newBase makes the vault and studies it.
func newBase(ctx context.Context, e trial.Env) (*base, error) {
	p, err := rig.New(ctx, e.Program, filepath.Join(e.Dir, "own"), e.Now)
	if err != nil {
		return nil, err
	}
	b := &base{place: p, now: e.Now, foreign: map[string][]byte{}}
	images, err := b.history(ctx, e.Seed)
	if err != nil {
		return nil, err
	}
	if b.objects, err = load(p.Vault); err != nil {
		return nil, err
	}
	if err := b.study(ctx, images); err != nil {
		return nil, err
	}
	return b, b.another(ctx, e)
}

// history runs the jobs. It returns the images of all points, in order.
func (b *base) history(ctx context.Context, seed uint64) (images []string, err error) {
	p := b.place
	a, c := p.Path("a.raw"), p.Path("b.raw")
	if err := errors.Join(rig.Mixed(a, 5*mib+4096, seed), rig.Mixed(c, 3*mib, seed+1)); err != nil {
		return nil, err
	}
	own := []string{p.Path("own-1.raw"), p.Path("own-2.raw")} // guests with keys of their own
	if err := errors.Join(rig.Mixed(own[0], 2*mib, seed+3), rig.Mixed(own[1], mib, seed+4)); err != nil {
		return nil, err
	}
	job := func(image string, change float64, codec string, more ...string) error {
		if change > 0 {
			if _, err := workload.Scatter(image, change, seed+uint64(len(images))); err != nil {
				return err
			}
		}
		if _, err := p.Must(ctx, append([]string{"backup", image, "--codec", codec}, more...)...); err != nil {
			return err
		}
		text, err := os.ReadFile(image)
		if err != nil {
			return err
		}
		kept := p.Path(fmt.Sprintf("point-%d.raw", len(images)))
		images = append(images, kept)
		return os.WriteFile(kept, text, 0o600)
	}
	err = errors.Join(job(a, 0, "auto"), job(c, 0, "lz4"), job(a, 0.02, "zstd"), job(c, 0.3, "none"), b.pointless(ctx, seed), job(a, 0.01, "s2"),
		job(own[0], 0, "auto", "--domain", "guest"), job(own[1], 0, "lz4", "--domain", "guest"))
	return images, err
}

// pointless is a job that stores but makes no point: its image is written to.
func (b *base) pointless(ctx context.Context, seed uint64) error {
	image := b.place.Path("c.raw")
	if err := rig.Mixed(image, 3*mib, seed+2); err != nil {
		return err
	}
	var wrote error
	r, err := b.place.Start(ctx, func(l rig.Line) {
		if l.Kind == "SnapshotTaken" {
			_, wrote = workload.Scatter(image, 0.01, seed)
		}
	}, "backup", image)
	if err != nil {
		return err
	}
	end, err := r.Wait()
	if err == nil && end.Exit != 3 {
		err = fmt.Errorf("a job whose image changes: %w", end.Err("backup"))
	}
	return errors.Join(err, wrote)
}

// load reads all objects of a vault.
func load(folder string) (map[string][]byte, error) {
	all := map[string][]byte{}
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if name = filepath.ToSlash(name); strings.HasPrefix(name, "tmp/") {
			return nil // not an object
		}
		all[name], err = os.ReadFile(path)
		return err
	})
	return all, err
}

// study finds out what every byte is for.
func (b *base) study(ctx context.Context, images []string) error {
	opened, err := rig.Open(ctx, b.place.Vault, rig.Password, b.now)
	v, s := opened.Vault, opened.State
	if err != nil {
		return err
	}
	listed := s.Listed()
	if len(listed) != len(images) {
		return fmt.Errorf("%d points for %d jobs", len(listed), len(images))
	}
	b.packs, b.secrets = map[string]vault.PackInfo{}, map[string]string{}
	for k, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err != nil {
			return err
		}
		b.secrets[k.Kind] = vault.KeyName(k.ID)
	}
	for k := range s.Packs {
		if b.packs[vault.PackName(k.Job, k.Pack)], err = vault.ReadPackFooter(ctx, v.Store, v.Keys, k.Job, k.Pack); err != nil {
			return err
		}
	}
	for n, p := range listed {
		one := &point{PointCommitted: p.PointCommitted, tables: map[string]bool{}, uses: map[string][]use{}}
		text, err := os.ReadFile(images[n])
		if err != nil {
			return err
		}
		one.sums = append(one.sums, sha256.Sum256(text))
		for _, d := range p.Disks {
			if err := one.study(ctx, v, d); err != nil {
				return err
			}
		}
		b.points = append(b.points, one)
	}
	b.sort(s)
	return nil
}

func (p *point) study(ctx context.Context, v *vault.Vault, d events.PointDisk) error {
	for _, ref := range slices.Concat(d.Extents, d.Chunks) {
		if !ref.Name.IsZero() {
			p.tables[table.ObjectName(ref)] = true
		}
	}
	m, err := table.OpenMap(ctx, v, d)
	if err != nil {
		return err
	}
	for x, err := range m.Range(ctx, 0, d.Size) {
		if err != nil {
			return err
		}
		if x.Zero {
			continue
		}
		name := vault.PackName(x.Pack.Job, x.Pack.Name)
		p.uses[name] = append(p.uses[name], use{x.Chunk, int64(x.PackOffset), int64(x.Stored), d.Disk, x.Offset, x.Length})
	}
	return nil
}

// sort puts the objects of each type in an order that does not depend on random
// names: that of the ledger where it says one.
func (b *base) sort(s *catalog.State) {
	b.byKind = map[string][]string{}
	for name := range b.objects {
		kind := b.kindOf(name)
		b.byKind[kind] = append(b.byKind[kind], name)
	}
	b.kinds = slices.Sorted(maps.Keys(b.byKind))
	age := map[string]uint64{}
	for _, j := range s.Jobs {
		age[j.ID.String()] = j.Position
	}
	of := func(name string) uint64 {
		parts := strings.Split(name, "/")
		return age[parts[min(1, len(parts)-1)]]
	}
	for _, names := range b.byKind {
		slices.SortFunc(names, func(x, y string) int {
			if x, y := of(x), of(y); x != y {
				return int(x) - int(y)
			}
			if d := len(b.objects[x]) - len(b.objects[y]); d != 0 && len(age) > 0 && strings.Count(x, "/") == 2 {
				return d // of one job: random names, but sizes are much the same each time
			}
			return strings.Compare(x, y)
		})
	}
}

// unneeded is the type of packs that no point needs.
const unneeded = "packs no point needs"

// kindOf is the type of an object: the first word of its name. Packs that no
// point needs are a type of their own.
func (b *base) kindOf(name string) string {
	kind, _, _ := strings.Cut(name, "/")
	if kind == "packs" && !slices.ContainsFunc(b.points, func(p *point) bool { return len(p.uses[name]) > 0 }) {
		return unneeded
	}
	return kind
}

// another makes a second vault with the same images, and keeps an object of each
// type.
func (b *base) another(ctx context.Context, e trial.Env) error {
	p, err := rig.New(ctx, e.Program, filepath.Join(e.Dir, "other"), e.Now)
	if err != nil {
		return err
	}
	if _, err := p.Must(ctx, "backup", b.place.Path("a.raw")); err != nil {
		return err
	}
	if _, err := p.Must(ctx, "backup", b.place.Path("own-2.raw"), "--domain", "guest"); err != nil {
		return err
	}
	objects, err := load(p.Vault)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		kind, _, _ := strings.Cut(name, "/")
		b.foreign[kind] = objects[name]
	}
	b.foreign[unneeded] = b.foreign["packs"]
	return nil
}
