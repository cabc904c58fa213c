package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/millrace-backup/millrace/audit/proof/names"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Options say what is proven and against what.
type Options struct {
	Config vault.Config // read from the store, so genuine
	Store  store.Store
	Vault  *vault.Vault // nil: without the password
	Seen   []Seen
	// Scratch is a folder for the one scratch file; empty: the system's.
	Scratch string
	Workers int // that read objects at the same time; at least 1
	// Progress is told how many of how many bytes have been read; may be nil.
	Progress func(done, total int64)
}

// Seen is a checkpoint that somebody saw before.
type Seen struct {
	By string // who remembers it, for people
	ledger.Checkpoint
}

// The ways in which an object can be wrong.
const (
	Damaged  = "damaged"  // its bytes are not those that were put
	Missing  = "missing"  // it is not there
	Extra    = "extra"    // nothing explains it
	Forked   = "forked"   // it is of another history
	Rollback = "rollback" // the vault ends before what was seen
	Newer    = "newer"    // a later version wrote it, or it is damaged where that is said
)

// Finding is one thing that is wrong.
type Finding struct {
	Object string // name in the store
	What   string // what it is, in words
	State  string
	Err    error    // why; its chain has vault.ErrDamaged, vault.ErrNewer, ledger.ErrForked or ledger.ErrRollback
	Job    id.Job   // that wrote it; zero: not known, or none
	Points []Needed // that need it, as far as is known; only with the password
}

// Needed is a point that needs an object.
type Needed struct {
	Point id.Point
	Guest string
}

// Count is a number of objects and their bytes.
type Count struct {
	Objects int64
	Bytes   int64
}

func (c *Count) add(bytes int64) { c.Objects, c.Bytes = c.Objects+1, c.Bytes+bytes }

// Kind is how many objects of one folder were looked at.
type Kind struct {
	Name string // the folder
	Count
}

// Result is what came of it.
type Result struct {
	Findings []Finding // by name of the object
	More     int       // findings beyond those, which are too many to hold
	Kinds    []Kind    // by name
	Password bool

	Segments    uint64 // of the ledger: its next position
	Head        ledger.Mark
	Signed      ledger.Checkpoint // the newest that verifies; Size 0: none
	Tail        uint64            // segments behind it
	Unproven    uint64            // segments that no signature reaches, because another is damaged
	Running     Count             // objects of jobs with heartbeats, not yet named
	LeftOver    Count             // objects of jobs that died, never named
	Retired     Count             // objects retired and not deleted yet
	RunningJobs []id.Job
	Notes       []string
	Later       map[string]int // facts of kinds that this version does not know
}

// maxFindings bounds what is held of a vault in which everything is wrong.
const maxFindings = 100_000

// Err is nil if nothing is wrong, else an error that has all findings' kinds in its chain
// and the first ones' texts.
func (r *Result) Err() error {
	if len(r.Findings) == 0 {
		return nil
	}
	kinds := map[error]bool{}
	var chain []error
	for _, sentinel := range []error{ledger.ErrRollback, ledger.ErrForked, vault.ErrDamaged, vault.ErrNewer} {
		for _, f := range r.Findings {
			if !kinds[sentinel] && errors.Is(f.Err, sentinel) {
				kinds[sentinel] = true
				chain = append(chain, fmt.Errorf("%s: %w", f.Object, f.Err))
			}
		}
	}
	return fmt.Errorf("%d findings, the first of each kind: %w", len(r.Findings)+r.More, errors.Join(chain...))
}

// pass is one run of Verify.
type pass struct {
	o       Options
	r       *Result
	refs    *names.Set
	state   *catalog.State // nil without the password
	jobs    map[id.Job]bool
	alive   map[id.Job]bool // have heartbeats
	keyed   bool            // the ledger names keys
	claimed bool            // some segment does, proven or not
	signs   bool            // it was made by a version that signs copies of points: the first segment names keys
	bare    []string        // copies of points without a signature
	snaps   []snapshot
	sizes   []uint64 // of checkpoints that are there, ascending

	mu    sync.Mutex // what follows
	kinds map[string]*Count
	loose []unnamed
	gone  []names.Ref
	done  int64
	total int64
}

// Verify goes through the vault. The error is one of reading it; what is wrong with it is
// in the result.
func Verify(ctx context.Context, o Options) (*Result, error) {
	folder, err := os.MkdirTemp(o.Scratch, "millrace-audit-")
	if err != nil {
		return nil, fmt.Errorf("verify vault: make a scratch folder: %w", err)
	}
	defer os.RemoveAll(folder)
	log, err := spill.Create(filepath.Join(folder, "names"))
	if err != nil {
		return nil, fmt.Errorf("verify vault: %w", err)
	}
	defer log.Close()
	p := &pass{o: o, r: &Result{Password: o.Vault != nil, Later: map[string]int{}}, refs: names.New(log), jobs: map[id.Job]bool{},
		kinds: map[string]*Count{}}
	if o.Vault != nil {
		p.state = catalog.New()
	}
	for _, step := range []func(context.Context) error{p.heartbeats, p.snapshots, p.history, p.copies, p.keys, p.objects, p.late, p.strays, p.contents} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("verify vault %s: %w", id.Short(o.Config.ID), err)
		}
	}
	p.finish()
	return p.r, nil
}

// found enters a finding. State follows from the error unless it is given.
func (p *pass) found(f Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.State == "" {
		switch {
		case errors.Is(f.Err, ledger.ErrRollback):
			f.State = Rollback
		case errors.Is(f.Err, ledger.ErrForked):
			f.State = Forked
		case errors.Is(f.Err, vault.ErrNewer):
			f.State = Newer
		default:
			f.State = Damaged
		}
	}
	if len(p.r.Findings) >= maxFindings {
		p.r.More++
		return
	}
	p.r.Findings = append(p.r.Findings, f)
}

// wrong reports whether an error says something about the object rather than about reading it.
func wrong(err error) bool {
	return errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrNewer) || ledger.Refused(err)
}

// count enters an object that was looked at.
func (p *pass) count(name string, bytes int64) {
	folder, _, _ := strings.Cut(name, "/")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kinds[folder] == nil {
		p.kinds[folder] = &Count{}
	}
	p.kinds[folder].add(bytes)
}

// advance tells the progress.
func (p *pass) advance(bytes int64) {
	p.mu.Lock()
	p.done += bytes
	done, total := p.done, max(p.total, p.done)
	p.mu.Unlock()
	if p.o.Progress != nil {
		p.o.Progress(done, total)
	}
}

func (p *pass) note(format string, args ...any) {
	p.r.Notes = append(p.r.Notes, fmt.Sprintf(format, args...))
}

func (p *pass) finish() {
	for name, c := range p.kinds {
		p.r.Kinds = append(p.r.Kinds, Kind{name, *c})
	}
	slices.SortFunc(p.r.Kinds, func(a, b Kind) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(p.r.Findings, func(a, b Finding) int { return cmp.Compare(a.Object, b.Object) })
}

// what says in words what the object of a name is.
func what(name string) string {
	folder, rest, _ := strings.Cut(name, "/")
	switch folder {
	case vault.ConfigName:
		return "the vault's description"
	case "keys":
		return "a key that opens the vault"
	case "packs":
		return "a pack of chunks"
	case "tables":
		return "a table of a point"
	case "ledger":
		return "segment " + strings.TrimLeft(rest[:len(rest)-1], "0") + rest[len(rest)-1:] + " of the ledger"
	case "checkpoints":
		return "a checkpoint of the ledger"
	case "domains":
		return "keys of a guest's own domain"
	case "rotations":
		return "fresh keys of a rotation under way"
	case "leases":
		return "a heartbeat, on which nothing depends"
	case "catalogs":
		return "a snapshot of the catalog, which can be had again from the ledger"
	case "points":
		return "a copy of a point, for when the ledger is lost"
	}
	return "of no kind that this version knows"
}
