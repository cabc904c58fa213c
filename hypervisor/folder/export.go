package folder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/id"
)

// Configuration is what Guest.Config holds of a guest that is an export of Hyper-V,
// as JSON. Fields are only ever added.
type Configuration struct {
	Form   string `json:"form"` // "hyperv-export"
	File   string `json:"file"` // the machine's configuration, from the export's folder, with slashes; empty: there is none
	SHA256 string `json:"sha256,omitempty"`
	// Machine is what the file says; nil when it could not be read, see Remarks. It
	// is for people and for a later restore: see vmconfig for what it is worth.
	Machine     *vmconfig.Machine `json:"machine,omitempty"`
	Checkpoints []Checkpoint      `json:"checkpoints,omitempty"`
	Remarks     []string          `json:"remarks,omitempty"`
}

// Checkpoint is a checkpoint's configuration.
type Checkpoint struct {
	File  string          `json:"file"`
	Name  string          `json:"name"`
	ID    string          `json:"id"`
	Disks []vmconfig.Disk `json:"disks,omitempty"`
}

const (
	exportForm     = "hyperv-export"
	maxTreeFiles   = 20_000
	maxTreeDepth   = 8
	maxCheckpoints = 200 // Hyper-V makes 50 of a machine
	// What is more than this of a configuration is left out: it must fit into a fact.
	maxConfiguration = 1 << 20
	maxRemarks       = 200
)

// export is the tree of files that Hyper-V's export writes: "Virtual Machines",
// "Virtual Hard Disks" and "Snapshots", or the same files in one folder.
type export struct {
	dir    string
	files  int
	found  []candidate
	rest   []hypervisor.Unprotected
	config Configuration
	byName map[string][]candidate // the probed ones, by their names in lower case
	owners map[string]string      // by path: the checkpoint whose configuration names the file
}

// isExport tells an export by the names in it.
func isExport(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		name := strings.ToLower(e.Name())
		return e.IsDir() && (name == "virtual machines" || name == "virtual hard disks") || e.Type().IsRegular() && filepath.Ext(name) == ".vmcx"
	}), nil
}

// readExport looks at all files of the tree.
func readExport(ctx context.Context, dir string) (*export, error) {
	x := &export{dir: dir, config: Configuration{Form: exportForm}}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == dir {
			return err
		}
		if x.files++; x.files > maxTreeFiles {
			return fmt.Errorf("more than %d files: give the folder of one exported machine", maxTreeFiles)
		}
		return x.visit(path, e)
	})
	if err != nil {
		return nil, err
	}
	x.nameKeys()
	return x, nil
}

func (x *export) rel(path string) string {
	rel, err := filepath.Rel(x.dir, path)
	if err != nil {
		return filepath.ToSlash(path)
	}
	return filepath.ToSlash(rel)
}

func (x *export) leaveOut(key, format string, args ...any) {
	x.rest = append(x.rest, hypervisor.Unprotected{Key: key, Reason: fmt.Sprintf(format, args...)})
}

// visit sorts one file.
func (x *export) visit(path string, e fs.DirEntry) error {
	rel := x.rel(path)
	switch ext := strings.ToLower(filepath.Ext(path)); {
	case e.IsDir():
		if strings.Count(rel, "/") >= maxTreeDepth {
			x.leaveOut(rel, "a folder deeper than %d levels", maxTreeDepth)
			return fs.SkipDir
		}
		return nil
	case e.Type()&fs.ModeSymlink != 0:
		x.leaveOut(rel, "a link; in an exported machine only files count")
		return nil
	case ext == ".vmcx" || ext == ".xml" && strings.Contains(rel, "/"):
		x.readConfig(path, rel)
		return nil
	case ext == ".vmrs" || ext == ".bin" || ext == ".vsv":
		x.leaveOut(rel, "a saved state of the machine; points hold its disks")
		return nil
	case ext == ".vmgs":
		x.leaveOut(rel, "firmware variables and TPM of the machine; points hold its disks")
		return nil
	}
	c := candidate{key: e.Name(), path: path, format: formatOf(path)}
	reason, err := c.refuse(x.dir, e)
	if err != nil {
		return fmt.Errorf("disk %s: %w", rel, err)
	}
	if reason != "" {
		x.leaveOut(rel, "%s", reason)
		return nil
	}
	x.found = append(x.found, c)
	return nil
}

// nameKeys gives files of the same name in different folders different keys.
func (x *export) nameKeys() {
	count := map[string]int{}
	for _, c := range x.found {
		count[strings.ToLower(c.key)]++
	}
	for i, c := range x.found {
		if count[strings.ToLower(c.key)] > 1 {
			x.found[i].key = strings.ReplaceAll(x.rel(c.path), "/", "~")
		}
	}
}

// readConfig reads the configuration of the machine, or of a checkpoint. None that
// cannot be read fails anything: the reader is unproven, and disks are worth more.
func (x *export) readConfig(path, rel string) {
	m, sum, err := readMachine(path)
	checkpoint := slices.ContainsFunc(strings.Split(strings.ToLower(rel), "/"), func(s string) bool { return s == "snapshots" })
	switch {
	case err != nil:
		x.leaveOut(rel, "%v; disks are taken as their files say", err)
		x.config.Remarks = append(x.config.Remarks, fmt.Sprintf("%s: %v", rel, err))
	case checkpoint && len(x.config.Checkpoints) < maxCheckpoints:
		x.config.Checkpoints = append(x.config.Checkpoints, Checkpoint{File: rel, Name: m.Name, ID: m.ID, Disks: m.Disks})
		x.leaveOut(rel, "the configuration of a checkpoint; points hold the running state")
	case checkpoint:
		x.leaveOut(rel, "the configuration of more than %d checkpoints", maxCheckpoints)
	case x.config.File != "":
		// Whose disks are whose cannot be told.
		x.config.Machine = nil
		x.config.Remarks = append(x.config.Remarks, fmt.Sprintf("%s and %s: two machines in one folder, so neither is followed; back up each machine's folder by itself", x.config.File, rel))
		x.leaveOut(rel, "a second machine's configuration")
	default:
		x.config.File, x.config.SHA256, x.config.Machine = rel, sum, &m
	}
}

func readMachine(path string) (m vmconfig.Machine, sum string, err error) {
	f, err := openFile(path)
	if err != nil {
		return m, "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return m, "", err
	}
	if m, err = vmconfig.Read(f, st.Size()); err != nil {
		return m, "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, st.Size())); err != nil {
		return m, "", err
	}
	return m, hex.EncodeToString(h.Sum(nil)), nil
}

// identify gives the guest its name, and its id unless it has one.
func (x *export) identify(g *hypervisor.Guest) {
	m := x.config.Machine
	if m == nil {
		return
	}
	if m.Name != "" {
		g.Name = m.Name
	}
	if !g.ID.IsZero() {
		return
	}
	if err := g.ID.UnmarshalText([]byte(m.ID)); err != nil || g.ID.IsZero() {
		g.ID = id.Guest{}
		x.config.Remarks = append(x.config.Remarks, "the configuration has no id of the machine; the guest's is from its path")
	}
}

// disks are the guest's: those that the configuration names, in its order, then all
// others that no image is laid on. More is taken rather than less: only what a
// checkpoint's configuration names and the machine's does not is left out.
func (x *export) disks(g id.Guest) (out []hypervisor.Disk) {
	x.index()
	used := map[string]bool{}
	add := func(c candidate, identity string) {
		used[c.path] = true
		out = append(out, hypervisor.Disk{ID: id.NewDisk(g, identity), Key: c.key, Path: c.path, Info: c.info})
	}
	var named []vmconfig.Disk
	if x.config.Machine != nil {
		named = x.config.Machine.Disks
	}
	for _, d := range named {
		key := strings.TrimSpace(d.Slot() + " " + windowsBase(d.Path))
		c, why := x.fileOf(d)
		switch {
		case why != "":
			x.leaveOut(key, "%s", why)
		case used[c.path]:
			x.leaveOut(key, "the same file as at another place")
		default:
			add(c, "\x00slot "+d.Slot()) // stays when a checkpoint gives the disk another file
		}
	}
	configured := len(out) > 0
	for _, c := range leaves(x.found) {
		if used[c.path] {
			continue
		}
		if owner, is := x.owners[c.path]; configured && is {
			x.leaveOut(c.key, "the disk of checkpoint %q, which the machine does not run on", owner)
			continue
		}
		if configured {
			x.config.Remarks = append(x.config.Remarks, fmt.Sprintf("%s: not named by the configuration, backed up with the others", x.rel(c.path)))
		}
		add(c, c.key)
	}
	return out
}

// fileOf is the file of a disk that the configuration names, or why there is none.
func (x *export) fileOf(d vmconfig.Disk) (c candidate, why string) {
	name := windowsBase(d.Path)
	if d.Type != "VHD" {
		return c, fmt.Sprintf("a disk of type %s, which is not in a file (a pass-through disk)", d.Type)
	}
	if name == "" {
		return c, "the configuration names no file"
	}
	found := slices.Clone(x.byName[strings.ToLower(name)])
	if len(found) > 1 {
		folder := windowsBase(strings.TrimRight(d.Path[:len(d.Path)-len(name)], `\/`))
		found = slices.DeleteFunc(found, func(c candidate) bool { return !strings.EqualFold(filepath.Base(filepath.Dir(c.path)), folder) })
		if len(found) != 1 {
			return c, "several files have the name of " + d.Path
		}
	}
	if len(found) == 0 {
		return c, "the configuration names " + d.Path + ", which is not in the folder"
	}
	return found[0], ""
}

// index prepares fileOf, and finds the files of checkpoints.
func (x *export) index() {
	x.byName, x.owners = map[string][]candidate{}, map[string]string{}
	for _, c := range x.found {
		name := strings.ToLower(filepath.Base(c.path))
		x.byName[name] = append(x.byName[name], c)
	}
	for _, p := range x.config.Checkpoints {
		for _, d := range p.Disks {
			if c, why := x.fileOf(d); why == "" {
				x.owners[c.path] = p.Name
			}
		}
	}
}

// windowsBase is the last element of a path of Windows, or of this system.
func windowsBase(path string) string {
	return path[strings.LastIndexAny(path, `\/`)+1:]
}

// encode is the configuration for Guest.Config, readable as it is. One that would be
// too large loses what matters least.
func (x *export) encode() ([]byte, error) {
	c := x.config
	c.Remarks = slices.Clone(c.Remarks[:min(len(c.Remarks), maxRemarks)])
	b, err := c.encode()
	if err == nil && len(b) > maxConfiguration {
		c.Checkpoints = nil
		c.Remarks = append(c.Remarks, "the checkpoints are left out, there is too much of them")
		b, err = c.encode()
	}
	if err == nil && len(b) > maxConfiguration {
		c = Configuration{Form: c.Form, File: c.File, SHA256: c.SHA256, Remarks: []string{"what the configuration says is left out, there is too much of it"}}
		b, err = c.encode()
	}
	return b, err
}

func (c Configuration) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// ErrNoExport says that a guest's configuration is not one of an export.
var ErrNoExport = errors.New("not the configuration of an exported machine")

// ReadConfiguration reads what Guest.Config holds of an exported machine.
func ReadConfiguration(b []byte) (Configuration, error) {
	var c Configuration
	if err := json.Unmarshal(b, &c); err != nil || c.Form != exportForm {
		return Configuration{}, ErrNoExport
	}
	return c, nil
}
