package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/images"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/id"
)

const (
	maxTreeFiles = 20_000
	// Of hypervisor.MaxDisks; the rest is for what the machine has.
	maxCarried = 800
	// Bytes of configurations that are read; those of a machine with 50 checkpoints are some
	// 10 MiB. The others are kept as files.
	maxConfigs = 32 << 20
)

// Tree is an export as it was found.
type Tree struct {
	dir     string
	entries int
	files   []file          // that can be carried
	kept    map[string]bool // their paths
	odd     []string        // paths of files that no tree can have
	folders []string
	names   Names
	found   []images.Image
	broken  map[string]error // by path: the images that cannot be opened
	configs []config
	read    int64 // bytes of configurations
	rest    []hypervisor.Unprotected
	strays  int // how many of rest, the first, are files that were met
	config  Configuration
	byName  map[string][]images.Image // by their names in lower case
	owners  map[string]string         // by path: the checkpoint whose configuration names the image
}

// file is a regular file of the tree.
type file struct {
	rel, path string
	size      int64
	image     bool
}

// errEncoding is of a path that cannot be handed to another process, nor shown.
var errEncoding = errors.New("its path is not UTF-8: rename it")

// config is a configuration that could be read.
type config struct {
	rel, sum   string
	machine    vmconfig.Machine
	checkpoint bool
}

// Is tells an export by the names in it.
func Is(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		name := strings.ToLower(e.Name())
		return e.IsDir() && (name == "virtual machines" || name == "virtual hard disks") || e.Type().IsRegular() && filepath.Ext(name) == ".vmcx"
	}), nil
}

// Read looks at all files of the tree, and into its configurations and images.
func Read(ctx context.Context, dir string) (*Tree, error) {
	t := &Tree{dir: dir, config: Configuration{Form: exportForm}, broken: map[string]error{}, kept: map[string]bool{}}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == dir {
			return err
		}
		if t.entries++; t.entries > maxTreeFiles {
			return fmt.Errorf("more than %d files: give the folder of one exported machine", maxTreeFiles)
		}
		return t.visit(path, e)
	})
	if err != nil {
		return nil, err
	}
	t.strays = len(t.rest)
	t.nameKeys()
	for i := range t.found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m := &t.found[i]
		err := m.Probe([]string{dir})
		if err == nil && !utf8.ValidString(m.Path) {
			err = errEncoding
		}
		if err != nil {
			t.broken[m.Path] = err
		}
	}
	t.index()
	t.settle()
	return t, nil
}

func (t *Tree) rel(path string) string {
	rel, err := filepath.Rel(t.dir, path)
	if err != nil {
		return filepath.ToSlash(path)
	}
	return filepath.ToSlash(rel)
}

func (t *Tree) leaveOut(key, format string, args ...any) {
	t.rest = append(t.rest, hypervisor.Unprotected{Key: key, Reason: fmt.Sprintf(format, args...)})
}

func (t *Tree) remark(format string, args ...any) {
	t.config.Remarks = append(t.config.Remarks, fmt.Sprintf(format, args...))
}

func (t *Tree) defect(file, format string, args ...any) {
	t.config.Defects = append(t.config.Defects, Defect{file, fmt.Sprintf(format, args...)})
}

// miss leaves out a file that the tree is not whole without.
func (t *Tree) miss(rel, format string, args ...any) {
	t.leaveOut(rel, format, args...)
	t.defect(rel, format, args...)
}

// visit sorts one entry.
func (t *Tree) visit(path string, e fs.DirEntry) error {
	rel := t.rel(path)
	switch {
	case e.IsDir():
		t.folders = append(t.folders, rel)
		return nil
	case e.Type()&fs.ModeSymlink != 0:
		t.miss(rel, "a link; in an exported machine only files count")
		return nil
	case !e.Type().IsRegular():
		t.leaveOut(rel, "not a regular file")
		return nil
	}
	st, err := e.Info()
	if err != nil {
		return fmt.Errorf("file %s: %w", rel, err)
	}
	f := file{rel: rel, path: path, size: st.Size()}
	// What cannot be written back everywhere is read all the same: a disk is one, whatever
	// its file is called.
	odd := t.names.AddFile(rel)
	if odd != nil {
		t.odd = append(t.odd, rel)
	}
	keep := true
	switch ext := strings.ToLower(filepath.Ext(path)); {
	case ext == ".vmcx" || ext == ".xml" && strings.Contains(rel, "/"):
		keep = t.readConfig(f)
	case slices.Contains([]string{".vmrs", ".bin", ".vsv", ".vmgs"}, ext):
	default:
		if f.image, err = t.readImage(f, e); err != nil {
			return fmt.Errorf("disk %s: %w", rel, err)
		}
	}
	switch {
	case odd != nil && f.image:
		t.leaveOut("the file "+rel, "it cannot be kept as a file of the tree, only what disks show of it: %s; rename it", plainly(odd, rel))
		t.defect(rel, "%s; rename it", plainly(odd, rel))
	case odd != nil:
		t.miss(rel, "%s; rename it", plainly(odd, rel))
	case keep:
		t.files = append(t.files, f)
		t.kept[path] = true
	}
	return nil
}

// plainly is what is wrong with a path, for where that stands already.
func plainly(err error, rel string) string {
	return strings.TrimPrefix(err.Error(), fmt.Sprintf("%q: ", shorten(rel)))
}

// readImage notes a file that is an image.
func (t *Tree) readImage(f file, e fs.DirEntry) (bool, error) {
	m := images.At(e.Name(), f.path)
	reason, err := m.Refuse(t.dir, e)
	if err != nil {
		return false, err
	}
	if reason != "" {
		if reason != images.NoImage {
			t.remark("%s: %s; it is kept as a file and is no disk", f.rel, reason)
		}
		return false, nil
	}
	t.found = append(t.found, m)
	return true, nil
}

// readConfig reads the configuration of the machine, or of a checkpoint, and reports
// whether it is there as a file at least. None that cannot be read fails anything: the
// reader is unproven, and disks are worth more.
func (t *Tree) readConfig(f file) bool {
	if f.size <= vmconfig.MaxSize { // of a larger one nothing is read
		if t.read += f.size; t.read > maxConfigs {
			t.remark("%s: more than %d MiB of configurations; it is kept as a file and not read", f.rel, maxConfigs>>20)
			return true
		}
	}
	m, sum, err := readMachine(f.path)
	switch {
	case errors.Is(err, vmconfig.ErrForm), errors.Is(err, vmconfig.ErrUnsupported):
		t.remark("%s: %v; it is kept as a file, and disks are taken as their files say", f.rel, err)
	case err != nil:
		t.miss(f.rel, "%v; disks are taken as their files say", err)
		t.remark("%s: %v", f.rel, err)
		return false
	default:
		below := slices.Contains(strings.Split(strings.ToLower(f.rel), "/"), "snapshots")
		t.configs = append(t.configs, config{f.rel, sum, m, below || strings.EqualFold(m.Kind, "Snapshots")})
	}
	return true
}

// settle decides which configuration is the machine's.
func (t *Tree) settle() {
	var machines []int
	for i, c := range t.configs {
		if !c.checkpoint {
			machines = append(machines, i)
		}
	}
	if len(machines) > 1 {
		if newest := t.newest(machines); newest >= 0 {
			for _, i := range machines {
				t.configs[i].checkpoint = i != newest
			}
			machines = []int{newest}
		}
	}
	for n, i := range machines {
		c := &t.configs[i]
		if n == 0 {
			t.config.File, t.config.SHA256, t.config.Machine = c.rel, c.sum, &c.machine
			if _, ok := machineID(c.machine); !ok {
				t.remark("%s: it has no id of the machine; the guest has one from elsewhere", c.rel)
			}
			continue
		}
		// Whose disks are whose cannot be told.
		t.config.SHA256, t.config.Machine = "", nil
		t.remark("%s and %s: two machines in one folder, so neither is followed; back up each machine's folder by itself", t.config.File, c.rel)
	}
	for _, c := range t.configs {
		if !c.checkpoint {
			continue
		}
		if len(t.config.Checkpoints) == maxCheckpoints {
			t.remark("more than %d checkpoints; the others are kept as files and not listed", maxCheckpoints)
			break
		}
		t.config.Checkpoints = append(t.config.Checkpoints, Checkpoint{File: c.rel, Name: c.machine.Name, ID: c.machine.ID, Disks: c.machine.Disks})
		t.judge(c)
	}
}

// newest is the one of several configurations, by their numbers, that all others are
// checkpoints of as far as disks tell, or -1: of each other one there are images, and
// every one is beneath an image of the newest.
func (t *Tree) newest(among []int) int {
	if len(among) > maxCheckpoints {
		return -1
	}
	images, below := map[int][]string{}, map[int]map[string]bool{}
	for _, i := range among {
		below[i] = map[string]bool{}
		for _, d := range t.configs[i].machine.Disks {
			if m, why := t.imageOf(d); why == "" && t.broken[m.Path] == nil {
				images[i] = append(images[i], m.ID())
				for _, path := range m.Below {
					below[i][path] = true
				}
			}
		}
	}
	for _, i := range among {
		older := func(j int) bool {
			return len(images[j]) > 0 && !slices.ContainsFunc(images[j], func(path string) bool { return !below[i][path] })
		}
		if !slices.ContainsFunc(among, func(j int) bool { return j != i && !older(j) }) {
			return i
		}
	}
	return -1
}

// judge notes which images of a checkpoint are its alone, and what it lacks.
func (t *Tree) judge(c config) {
	for _, d := range c.machine.Disks {
		m, why := t.imageOf(d)
		switch {
		case d.Type != "VHD":
		case why != "":
			t.defect(c.rel, "checkpoint %q, disk %s: %s", c.machine.Name, d.Slot(), why)
			t.leaveOut(fmt.Sprintf("checkpoint %q %s", c.machine.Name, d.Slot()), "%s", why)
		default:
			t.owners[m.Path] = c.machine.Name
			if err := t.broken[m.Path]; err != nil {
				t.defect(c.rel, "checkpoint %q, disk %s: %v", c.machine.Name, d.Slot(), err)
			}
		}
	}
}

// Identify gives the guest its name, and its id unless it has one.
func (t *Tree) Identify(g *hypervisor.Guest) {
	m := t.config.Machine
	if m == nil {
		return
	}
	if m.Name != "" {
		g.Name = m.Name
	}
	if !g.ID.IsZero() {
		return
	}
	if machine, ok := machineID(*m); ok {
		g.ID = machine
	}
}

// machineID is the id that a configuration gives the machine.
func machineID(m vmconfig.Machine) (out id.Guest, ok bool) {
	err := out.UnmarshalText([]byte(m.ID))
	return out, err == nil && !out.IsZero()
}
