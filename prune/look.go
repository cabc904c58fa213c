package prune

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
)

// Options say how far a look goes.
type Options struct {
	// Full considers all packs and all objects of the vault, not only what the points
	// that were forgotten since the last time named.
	Full bool
	// Sparse is the share of a pack's bytes, in percent, below which what is needed of
	// it moves to another pack and the rest is given back; 0: nothing is moved.
	Sparse int
	// Scratch is the path of a file to sort in.
	Scratch string
	// Self is the job that prunes; zero if none has begun.
	Self id.Job
	// Now, and how long what a job that failed has stored is left for the next one,
	// which finds it, if none has succeeded since.
	Now     time.Time
	Salvage time.Duration
}

// Plan is what may go, as of one position of the ledger.
type Plan struct {
	Position uint64 // everything before it was considered
	Tables   []events.TableRef
	Packs    []events.PackName // nothing of them is needed
	Sparse   []Sparse
	Strange  []string // objects in the folders of packs and tables that have no such name
	Read     Reading
	Held     int // forgotten points that a running job may build upon
	// Holders are the jobs that have not ended for which something was left, in the order
	// of the ledger: forgotten points, tables that are not replaced, packs and objects of
	// their own. One that has died holds it until it is fenced.
	Holders []*catalog.Job

	tables map[id.Object]bool // chunk tables that were looked into, by name
	guests map[id.Guest]bool  // those whose tables are to be replaced
}

// Sparse is a pack of which little is needed.
type Sparse struct {
	Pack   events.PackName
	Domain id.Domain
	Needed int64             // bytes of it
	Tables []events.TableRef // chunk tables that name it

	chunks []place
}

// place is where a needed chunk lies in a pack.
type place struct{ offset, stored uint32 }

// Reading is what a look cost.
type Reading struct {
	Forgotten int   // tables of forgotten points, read whole
	Indexes   int   // of needed tables
	Tables    int   // needed tables that were read whole too
	Bytes     int64 // of all these
}

// Bytes is how much deleting the plan's objects gives back.
func (p *Plan) Bytes() (n int64) {
	for _, t := range p.Tables {
		n += t.Size
	}
	for _, k := range p.Packs {
		n += k.Size
	}
	for _, s := range p.Sparse {
		n += s.Pack.Size - s.Needed
	}
	return n
}

// Empty reports that there is nothing to retire.
func (p *Plan) Empty() bool { return len(p.Tables)+len(p.Packs)+len(p.Sparse) == 0 }

// look is a Look at work.
type look struct {
	ctx   context.Context
	v     *vault.Vault
	s     *catalog.State
	o     Options
	plan  *Plan
	packs map[table.PackRef]*suspect
	live  []events.TableRef              // needed chunk tables
	by    map[id.Object][]*catalog.Point // ... and the points that name them
}

// suspect is a pack of which something may have become free.
type suspect struct {
	known *catalog.Pack
	free  int64    // bytes that may be free, at most
	by    []uint32 // needed tables that name it, by their number in look.live
}

// maxMoved bounds how many chunks one plan moves; the rest is for the next.
const maxMoved = 1 << 20

// Look finds what may go. It changes nothing.
func Look(ctx context.Context, v *vault.Vault, s *catalog.State, o Options) (*Plan, error) {
	log, err := spill.Create(o.Scratch)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	l := &look{ctx: ctx, v: v, s: s, o: o, plan: &Plan{Position: s.Next, tables: map[id.Object]bool{}, guests: map[id.Guest]bool{}},
		packs: map[table.PackRef]*suspect{}}
	live, dead := Split(s, o.Self)
	l.live, l.by = chunkTables(live)
	for _, p := range live {
		if p.Forgotten != 0 {
			l.plan.Held++
			l.hold(builders(openJobs(s, o.Self), p)...)
		}
	}
	for _, j := range s.Jobs {
		if o.Full && j.ID != o.Self && j.Open() {
			l.hold(j)
		}
	}
	l.plan.Tables = unneededTables(s, live, dead)
	if err := l.suspects(dead); err != nil {
		return nil, err
	}
	if len(l.packs) > 0 {
		if err := l.indexes(); err != nil {
			return nil, err
		}
		l.unneeded()
		if err := l.sparse(log, live); err != nil {
			return nil, err
		}
	}
	if o.Full {
		if err := l.strays(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(l.plan.Holders, func(a, b *catalog.Job) int { return cmp.Compare(a.Position, b.Position) })
	return l.plan, nil
}

// hold notes for whom something is left.
func (l *look) hold(jobs ...*catalog.Job) {
	for _, j := range jobs {
		if !slices.Contains(l.plan.Holders, j) {
			l.plan.Holders = append(l.plan.Holders, j)
		}
	}
}

// suspects are the packs that tables nobody needs any more name; with Full, all.
func (l *look) suspects(dead []*catalog.Point) error {
	if l.o.Full {
		for k, p := range l.s.Packs {
			if p.Retired == 0 && l.over(k.Job) {
				l.packs[table.PackRef{Job: k.Job, Name: k.Pack}] = &suspect{known: p, free: p.Size}
			}
		}
		return nil
	}
	for w := range l.s.Withdrawn { // tables that named it may have been replaced
		if p := l.s.Packs[w.PackKey]; p != nil && p.Retired == 0 && l.over(p.PackKey.Job) {
			l.packs[table.PackRef{Job: p.PackKey.Job, Name: p.PackKey.Pack}] = &suspect{known: p}
		}
	}
	gone := map[id.Object]bool{}
	for _, t := range l.plan.Tables {
		gone[t.Name] = true
	}
	refs, _ := chunkTables(dead)
	for _, t := range refs {
		if !gone[t.Name] {
			continue
		}
		err := l.forgotten(t)
		if err != nil && !unreadable(err) {
			return err
		}
	}
	return nil
}

// forgotten adds what a table that nobody needs lists.
func (l *look) forgotten(t events.TableRef) error {
	c, err := table.OpenChunks(l.ctx, l.v, t)
	if err != nil {
		return err
	}
	l.plan.Read.Forgotten++
	l.plan.Read.Bytes += t.Size
	refs := c.Packs()
	found := make([]*suspect, len(refs))
	for i, ref := range refs {
		if found[i] = l.packs[ref]; found[i] != nil {
			continue
		}
		known := l.s.Packs[catalog.PackKey{Job: ref.Job, Pack: ref.Name}]
		if known == nil || known.Retired != 0 || !l.over(ref.Job) {
			continue
		}
		found[i] = &suspect{known: known}
		l.packs[ref] = found[i]
	}
	for r, err := range c.All(l.ctx) {
		if err != nil {
			return err
		}
		if p := found[r.Pack]; p != nil {
			p.free += int64(r.Stored)
		}
	}
	return nil
}

// over reports that a job can refer to its own packs no more. One that is not in
// the ledger is not running: a job says that it begins before it stores.
func (l *look) over(job id.Job) bool {
	j := l.s.Jobs[job]
	if j == nil || !j.Open() {
		return true
	}
	if job != l.o.Self {
		l.hold(j)
	}
	return false
}

// atOnce is how many indexes are read at the same time: a bucket answers slowly.
const atOnce = 16

// indexes reads which packs the needed tables name.
func (l *look) indexes() error {
	var mu sync.Mutex // of what follows
	group, ctx := errgroup.WithContext(l.ctx)
	group.SetLimit(atOnce)
	for n, t := range l.live {
		group.Go(func() error {
			c, err := open(ctx, l.v, t, l.by[t.Name])
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			l.plan.Read.Indexes++
			l.plan.Read.Bytes += int64(len(c.Packs())) * 48
			for _, ref := range c.Packs() {
				if p := l.packs[ref]; p != nil {
					p.by = append(p.by, uint32(n))
				}
			}
			l.plan.tables[t.Name] = true
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range l.packs {
		slices.Sort(p.by) // whoever was first
	}
	return nil
}

// unneeded takes the packs that no needed table names, in the order of the ledger.
func (l *look) unneeded() {
	for ref, p := range l.packs {
		if len(p.by) == 0 {
			delete(l.packs, ref)
			if !l.salvage(ref.Job) {
				l.plan.Packs = append(l.plan.Packs, events.PackName{Job: ref.Job, Pack: ref.Name, Size: p.known.Size})
			}
		}
	}
	slices.SortFunc(l.plan.Packs, comparePacks)
}

func comparePacks(a, b events.PackName) int {
	return cmp.Or(slices.Compare(a.Job[:], b.Job[:]), slices.Compare(a.Pack[:], b.Pack[:]))
}

// salvage reports whether the next job of a guest is to find what this one, which
// made no point, has stored.
func (l *look) salvage(job id.Job) bool {
	j := l.s.Jobs[job]
	if j == nil || len(j.Points) > 0 || j.Started.Verb == Verb || l.o.Now.Sub(j.LastSeen) > l.o.Salvage {
		return false
	}
	for _, later := range l.s.Jobs {
		if later.Position > j.Position && later.Started.Verb == j.Started.Verb && later.Finished != nil && later.Finished.Outcome == "done" {
			return false
		}
	}
	return true
}

// sparse counts what is needed of the packs that may have become sparse.
func (l *look) sparse(log *spill.Log, live []*catalog.Point) error {
	if l.o.Sparse == 0 {
		return nil
	}
	busy, wanted, read := l.busy(live), map[table.PackRef]*suspect{}, map[uint32]bool{}
	for ref, p := range l.packs {
		if p.free*100 >= p.known.Size*int64(100-l.o.Sparse) && !slices.ContainsFunc(p.by, busy) {
			wanted[ref] = p
			for _, n := range p.by {
				read[n] = true
			}
		}
	}
	r := newRows(log)
	for _, n := range slices.Sorted(maps.Keys(read)) {
		t := l.live[n]
		c, err := open(l.ctx, l.v, t, l.by[t.Name])
		if err == nil {
			err = r.add(l.ctx, c, n, func(ref table.PackRef) bool { return wanted[ref] != nil })
		}
		if err != nil {
			return err
		}
		l.plan.Read.Tables++
		l.plan.Read.Bytes += t.Size
	}
	needed := make([]int64, len(r.packs))
	if err := r.needed(func(at row) { needed[at.pack] += int64(at.stored) }); err != nil {
		return err
	}
	chosen := l.choose(r, wanted, needed)
	return r.needed(func(at row) {
		if p := chosen[at.pack]; p != nil {
			p.chunks = append(p.chunks, place{at.offset, at.stored})
		}
	})
}

// busy says which tables are not to be replaced: those of guests that a running job
// may have, which may be about to build upon them.
func (l *look) busy(live []*catalog.Point) func(uint32) bool {
	held := map[id.Object][]*catalog.Job{}
	for _, j := range openJobs(l.s, l.o.Self) {
		for _, p := range live {
			if mayHave(j, p.Guest) {
				for _, t := range p.Names() {
					held[t.Name] = append(held[t.Name], j)
				}
			}
		}
	}
	return func(n uint32) bool {
		by := held[l.live[n].Name]
		l.hold(by...)
		return len(by) > 0
	}
}

// needed tells of each chunk that is listed, once.
func (r *rows) needed(use func(at row)) error {
	var last row
	begun := false
	for b, err := range r.sorted() {
		if err != nil {
			return err
		}
		if !begun || b.pack != last.pack || b.offset != last.offset {
			use(b)
		}
		last, begun = b, true
	}
	return nil
}

// choose takes the sparse packs whose moving is worth its cost: what is copied, and
// the tables that are written once more, must be less than what is given back. So
// a prune never writes more than it frees. Tables that cost too much for what they
// hold back are left out with their packs, the worst first.
func (l *look) choose(r *rows, wanted map[table.PackRef]*suspect, needed []int64) map[uint32]*Sparse {
	in, moved := map[uint32]*suspect{}, 0
	for n, ref := range r.packs {
		p := wanted[ref]
		if needed[n]*100 < p.known.Size*int64(l.o.Sparse) && moved+int(p.known.Chunks) <= maxMoved {
			in[uint32(n)] = p
			moved += int(p.known.Chunks)
		}
	}
	for len(in) > 0 {
		var gain, cost int64
		per := map[uint32]int64{}
		for n, p := range in {
			free := p.known.Size - needed[n]
			gain, cost = gain+free, cost+needed[n]
			for _, t := range p.by {
				per[t] += free
			}
		}
		worst, least := uint32(0), math.Inf(1)
		for _, n := range slices.Sorted(maps.Keys(per)) {
			size := l.live[n].Size
			cost += size
			if each := float64(per[n]) / float64(size); each < least {
				worst, least = n, each
			}
		}
		if gain >= cost {
			break
		}
		for n, p := range in {
			if slices.Contains(p.by, worst) {
				delete(in, n)
			}
		}
	}
	out := map[uint32]*Sparse{}
	l.plan.Sparse = make([]Sparse, 0, len(in)) // it does not grow: places in it stay
	for n, ref := range r.packs {
		p := in[uint32(n)]
		if p == nil {
			continue
		}
		s := Sparse{Pack: events.PackName{Job: ref.Job, Pack: ref.Name, Size: p.known.Size}, Domain: p.known.Domain, Needed: needed[n]}
		for _, t := range p.by {
			s.Tables = append(s.Tables, l.live[t])
			for _, each := range l.by[l.live[t].Name] {
				l.plan.guests[each.Guest] = true
			}
		}
		l.plan.Sparse = append(l.plan.Sparse, s)
		out[uint32(n)] = &l.plan.Sparse[len(l.plan.Sparse)-1]
	}
	return out
}
