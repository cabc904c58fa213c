package catalog

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// An *image* is a State written down, so that a reader need not fold the ledger
// from its beginning: a row of entries, each two msgpack values, name and content.
// What many points share, tables and configurations, is in it once, before the
// first point that refers to it by number.
//
// An image is only ever read by a program whose structs have the shape of the
// writer's (see ImageShape): it is disposable, and a program that knows another
// field folds the ledger again. So no fact loses what this program cannot see.

// imageForm is raised whenever Apply makes something else of the same facts, for
// then an image made before holds what this program would not have made.
const imageForm = 2

// The largest image that is read. A vault of 100,000 points stays below both.
const (
	maxImageEntries = 1 << 23
	maxImageShared  = 1 << 22 // tables, and configurations
)

// errImage marks entries that are no image.
var errImage = errors.New("not an image of a state")

type (
	imageHead struct {
		Vault events.VaultCreated `json:"vault"`
		Next  uint64              `json:"next"`
	}
	imageGuest struct {
		ID     id.Guest `json:"id"`
		Name   string   `json:"name"`
		Driver string   `json:"driver"`
		Source string   `json:"source"`
	}
	imageJob struct {
		ID         id.Job              `json:"id"`
		Position   uint64              `json:"position"`
		Started    events.JobStarted   `json:"started"`
		StartedAt  events.Micros       `json:"started_at"`
		Finished   *events.JobFinished `json:"finished"`
		FinishedAt events.Micros       `json:"finished_at"`
		Fenced     bool                `json:"fenced"`
		LastSeen   events.Micros       `json:"last_seen"`
		Points     []id.Point          `json:"points"`
		PackCount  uint64              `json:"pack_count"`
		PackBytes  int64               `json:"pack_bytes"`
	}
	imagePack struct {
		Job      id.Job            `json:"job"`
		Stored   events.PackStored `json:"stored"`
		Position uint64            `json:"position"`
		Retired  uint64            `json:"retired"`
	}
	// imagePoint is a point whose configuration and tables are numbers: of the
	// configuration plus one, and per disk and layer of the extent and the chunk
	// table.
	imagePoint struct {
		Fact        events.PointCommitted `json:"fact"`
		Config      uint32                `json:"config"`
		Layers      [][]uint32            `json:"layers"`
		Job         id.Job                `json:"job"`
		Position    uint64                `json:"position"`
		Committed   events.Micros         `json:"committed"`
		Forgotten   uint64                `json:"forgotten"`
		Verified    *events.PointVerified `json:"verified"`
		VerifiedAt  events.Micros         `json:"verified_at"`
		VerifiedIn  uint64                `json:"verified_in"` // position
		DamagedIn   uint64                `json:"damaged_in"`  // position
		Kept        events.PointPinned    `json:"kept"`
		KeptSince   uint64                `json:"kept_since"`
		AsCommitted []events.PointDisk    `json:"committed_disks"` // if tables were replaced
	}
	imageRetired struct {
		Position uint64            `json:"position"`
		Packs    []events.PackName `json:"packs"`
		Tables   []events.TableRef `json:"tables"`
		Bytes    int64             `json:"bytes"`
		After    events.Micros     `json:"after"`
	}
	imageDomain struct {
		ID       id.Domain             `json:"id"`
		Keyed    events.DomainKeyed    `json:"keyed"`
		Objects  []uint32              `json:"objects"`
		Since    uint64                `json:"since"`
		Shredded uint64                `json:"shredded"`
		End      events.DomainShredded `json:"end"`
	}
	imageGone struct {
		Table    id.Object `json:"table"`
		Position uint64    `json:"position"`
	}
	imageRun struct {
		Started events.RunStarted `json:"started"`
		State   string            `json:"state"`
		Since   events.Micros     `json:"since"`
	}
	imagePin struct {
		Job      id.Job              `json:"job"`
		Fact     events.ReaderPinned `json:"fact"`
		Position uint64              `json:"position"`
	}
	imageWithdrawn struct {
		Job      id.Job    `json:"job"`
		Pack     id.Object `json:"pack"`
		Domain   id.Domain `json:"domain"`
		Chunk    id.Chunk  `json:"chunk"`
		Position uint64    `json:"position"`
	}
)

// ImageShape is the SHA-256 of what the structs in an image look like in this
// program. An image of another shape is not read.
func ImageShape() events.Hash {
	var b strings.Builder
	fmt.Fprintf(&b, "millrace state image %d\n", imageForm)
	seen := map[reflect.Type]bool{}
	for _, v := range []any{imageHead{}, events.KeyAdded{}, sets.Set{}, imageGuest{}, imageJob{}, imagePack{},
		imagePoint{}, imageRun{}, imagePin{}, imageWithdrawn{}, imageRetired{}, imageGone{}, imageDomain{}, events.TableRef{}} {
		describeType(&b, reflect.TypeOf(v), seen)
	}
	return events.Hash(id.Sum([]byte(b.String())))
}

func describeType(b *strings.Builder, t reflect.Type, seen map[reflect.Type]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return
	}
	seen[t] = true
	for n := range t.NumField() {
		f := t.Field(n)
		fmt.Fprintf(b, "%s.%s %s %s\n", t, f.Name, f.Type, f.Tag.Get("json"))
		describeType(b, f.Type, seen)
	}
}

// Image yields the entries of the state's image. Equal states have equal images.
func (s *State) Image() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		w := imageWriter{yield: yield, tables: map[events.TableRef]uint32{}, configs: map[string]uint32{}}
		w.put("head", imageHead{s.Vault, s.Next})
		each(&w, s.Keys, func(_ id.Key, k events.KeyAdded) { w.put("key", k) })
		for _, name := range slices.Sorted(maps.Keys(s.Sets)) {
			w.put("set", s.Sets[name])
		}
		each(&w, s.Guests, func(_ id.Guest, g *Guest) { w.put("guest", imageGuest{g.ID, g.Name, g.Driver, g.Source}) })
		each(&w, s.Jobs, func(_ id.Job, j *Job) {
			w.put("job", imageJob{j.ID, j.Position, j.Started, events.At(j.StartedAt), j.Finished, events.At(j.FinishedAt), j.Fenced,
				events.At(j.LastSeen), j.Points, j.PackCount, j.PackBytes})
		})
		for _, k := range slices.SortedFunc(maps.Keys(s.Packs), PackKey.compare) {
			p := s.Packs[k]
			w.put("pack", imagePack{k.Job, p.PackStored, p.Position, p.Retired})
		}
		// In the order of the ledger, so that neighbours share most of their tables.
		for _, p := range slices.SortedFunc(maps.Values(s.Points), byPosition) {
			w.point(p)
		}
		each(&w, s.Runs, func(_ id.Job, r *Run) { w.put("run", imageRun{r.RunStarted, r.State, events.At(r.Since)}) })
		each(&w, s.Pins, func(k id.Job, p Pin) { w.put("pin", imagePin{k, p.ReaderPinned, p.Position}) })
		for _, k := range slices.SortedFunc(maps.Keys(s.Withdrawn), WithdrawnChunk.compare) {
			w.put("withdrawn", imageWithdrawn{k.Job, k.Pack, k.Domain, k.Chunk, s.Withdrawn[k]})
		}
		for _, k := range slices.Sorted(maps.Keys(s.Retired)) {
			w.put("retired", imageRetired(*s.Retired[k]))
		}
		for _, k := range slices.SortedFunc(maps.Keys(s.Tables), func(a, b id.Object) int { return slices.Compare(a[:], b[:]) }) {
			w.put("gone", imageGone{k, s.Tables[k]})
		}
		each(&w, s.Domains, func(_ id.Domain, d *Domain) { w.put("domain", imageDomain(*d)) })
	}
}

type imageWriter struct {
	yield   func([]byte, error) bool
	over    bool
	tables  map[events.TableRef]uint32
	configs map[string]uint32
}

func (w *imageWriter) put(name string, v any) {
	if w.over {
		return
	}
	b, err := events.Marshal(name)
	if err == nil {
		var value []byte
		value, err = events.Marshal(v)
		b = append(b, value...)
	}
	w.over = !w.yield(b, err) || err != nil
}

// each visits a map in order of its ids.
func each[K ~[16]byte, V any](w *imageWriter, m map[K]V, visit func(K, V)) {
	for _, k := range slices.SortedFunc(maps.Keys(m), func(a, b K) int { return slices.Compare(a[:], b[:]) }) {
		if w.over {
			return
		}
		visit(k, m[k])
	}
}

func (w *imageWriter) point(p *Point) {
	i := imagePoint{Fact: p.PointCommitted, Job: p.Job, Position: p.Position, Committed: events.At(p.Committed), Forgotten: p.Forgotten,
		VerifiedAt: events.At(p.VerifiedAt), VerifiedIn: p.verified, DamagedIn: p.Damaged, Kept: p.Kept, KeptSince: p.KeptSince, AsCommitted: p.committed}
	if p.verified != 0 {
		i.Verified = &p.Verified
	}
	if len(p.Config) > 0 {
		n, known := w.configs[string(p.Config)]
		if !known {
			n = uint32(len(w.configs)) + 1
			w.configs[string(p.Config)] = n
			w.put("config", p.Config)
		}
		i.Config, i.Fact.Config = n, nil
	}
	i.Fact.Disks = slices.Clone(p.Disks)
	for n := range i.Fact.Disks {
		d := &i.Fact.Disks[n]
		var layers []uint32
		for k, ref := range d.Extents {
			layers = append(layers, w.table(ref))
			if k < len(d.Chunks) {
				layers = append(layers, w.table(d.Chunks[k]))
			}
		}
		if len(d.Extents) == len(d.Chunks) { // else they stay as they are
			d.Extents, d.Chunks = nil, nil
		} else {
			layers = nil
		}
		i.Layers = append(i.Layers, layers)
	}
	w.put("point", i)
}

func (w *imageWriter) table(ref events.TableRef) uint32 {
	n, known := w.tables[ref]
	if !known {
		n = uint32(len(w.tables))
		w.tables[ref] = n
		w.put("table", ref)
	}
	return n
}

// imageReader makes a State of the entries of an image.
type imageReader struct {
	s       *State
	entries int
	tables  []events.TableRef
	configs [][]byte
}

// ReadImage makes a state of the entries that Image yielded. What is no image is
// an error; whether it is the right one is for the caller to know.
func ReadImage(entries iter.Seq2[[]byte, error]) (*State, error) {
	r := imageReader{s: New()}
	for b, err := range entries {
		if err == nil {
			err = r.add(b)
		}
		if err != nil {
			return nil, fmt.Errorf("read state image: %w", err)
		}
	}
	for _, p := range r.s.Points {
		if g := r.s.Guests[p.Guest]; g != nil && p.Forgotten == 0 {
			g.Points = append(g.Points, p)
		}
	}
	for _, g := range r.s.Guests {
		slices.SortFunc(g.Points, byPosition)
	}
	return r.s, nil
}

func (r *imageReader) add(b []byte) error {
	if r.entries++; r.entries > maxImageEntries {
		return fmt.Errorf("more than %d entries: %w", maxImageEntries, errImage)
	}
	n, err := events.Walk(b)
	if err != nil {
		return err
	}
	var name string
	if err := events.Unmarshal(b[:n], &name); err != nil {
		return err
	}
	s, value := r.s, b[n:]
	switch name {
	case "head":
		var h imageHead
		err = events.Unmarshal(value, &h)
		s.Vault, s.Next = h.Vault, h.Next
	case "key":
		var k events.KeyAdded
		err = events.Unmarshal(value, &k)
		s.Keys[k.Key] = k
	case "set":
		var i sets.Set
		err = events.Unmarshal(value, &i)
		s.Sets[i.Fact.Set] = &i
	case "guest":
		var g imageGuest
		err = events.Unmarshal(value, &g)
		s.Guests[g.ID] = &Guest{ID: g.ID, Name: g.Name, Driver: g.Driver, Source: g.Source}
	case "job":
		var j imageJob
		err = events.Unmarshal(value, &j)
		s.Jobs[j.ID] = &Job{j.ID, j.Position, j.Started, j.StartedAt.Time(), j.Finished, j.FinishedAt.Time(), j.Fenced,
			j.LastSeen.Time(), j.Points, j.PackCount, j.PackBytes}
	case "pack":
		var p imagePack
		err = events.Unmarshal(value, &p)
		k := PackKey{p.Job, p.Stored.Pack}
		s.Packs[k] = &Pack{k, p.Stored, p.Position, p.Retired}
	case "table", "config", "point":
		return r.point(name, value)
	default:
		return r.rest(name, value)
	}
	return err
}

// rest adds what few vaults have much of.
func (r *imageReader) rest(name string, value []byte) (err error) {
	s := r.s
	switch name {
	case "run":
		var run imageRun
		err = events.Unmarshal(value, &run)
		s.Runs[run.Started.Run] = &Run{run.Started, run.State, run.Since.Time()}
	case "pin":
		var p imagePin
		err = events.Unmarshal(value, &p)
		s.Pins[p.Job] = Pin{p.Fact, p.Position}
	case "withdrawn":
		var w imageWithdrawn
		err = events.Unmarshal(value, &w)
		s.Withdrawn[WithdrawnChunk{PackKey{w.Job, w.Pack}, w.Domain, w.Chunk}] = w.Position
	case "retired":
		var i imageRetired
		err = events.Unmarshal(value, &i)
		gone := Retirement(i)
		s.Retired[i.Position] = &gone
	case "domain":
		var i imageDomain
		err = events.Unmarshal(value, &i)
		d := Domain(i)
		s.Domains[i.ID] = &d
	case "gone":
		var g imageGone
		err = events.Unmarshal(value, &g)
		s.Tables[g.Table] = g.Position
	default:
		return fmt.Errorf("entry %q: %w", name, errImage)
	}
	return err
}

// point adds a point, or what points share.
func (r *imageReader) point(name string, value []byte) error {
	if len(r.tables) >= maxImageShared || len(r.configs) >= maxImageShared {
		return fmt.Errorf("more than %d tables: %w", maxImageShared, errImage)
	}
	switch name {
	case "table":
		var ref events.TableRef
		err := events.Unmarshal(value, &ref)
		r.tables = append(r.tables, ref)
		return err
	case "config":
		var c []byte
		err := events.Unmarshal(value, &c)
		r.configs = append(r.configs, c)
		return err
	}
	var i imagePoint
	if err := events.Unmarshal(value, &i); err != nil {
		return err
	}
	p := &Point{PointCommitted: i.Fact, Job: i.Job, Position: i.Position, Committed: i.Committed.Time(), Forgotten: i.Forgotten,
		VerifiedAt: i.VerifiedAt.Time(), verified: i.VerifiedIn, Damaged: i.DamagedIn, Kept: i.Kept, KeptSince: i.KeptSince, committed: i.AsCommitted}
	if i.Verified != nil {
		p.Verified = *i.Verified
	}
	if int(i.Config) > len(r.configs) || len(i.Layers) != len(p.Disks) {
		return fmt.Errorf("point %s: configuration %d, %d disks: %w", p.Point, i.Config, len(i.Layers), errImage)
	}
	if i.Config > 0 {
		p.Config = r.configs[i.Config-1]
	}
	for n, layers := range i.Layers {
		d := &p.Disks[n]
		for k, number := range layers {
			if int(number) >= len(r.tables) {
				return fmt.Errorf("point %s: table %d: %w", p.Point, number, errImage)
			}
			if k%2 == 0 {
				d.Extents = append(d.Extents, r.tables[number])
			} else {
				d.Chunks = append(d.Chunks, r.tables[number])
			}
		}
	}
	r.s.Points[p.Point] = p
	return nil
}
