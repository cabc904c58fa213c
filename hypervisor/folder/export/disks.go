package export

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/folder/images"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
)

// Describe fills in the disks of a guest that has its id, the carried files behind those
// that a machine has, and its configuration.
func (t *Tree) Describe(g *hypervisor.Guest) error {
	disks, err := t.disks(g.ID)
	if err != nil {
		return err
	}
	g.Disks = disks
	if len(disks) > 0 {
		g.Disks = append(disks, t.carried(g.ID, disks)...)
	}
	t.emptyFolders()
	if g.Config, err = t.config.encode(); err != nil {
		return err
	}
	// What is missing of disks and checkpoints is said before what else lies there.
	g.Unprotected = slices.Concat(t.rest[t.strays:], t.rest[:t.strays])
	if n := len(g.Disks) - len(disks); n > maxCarried || n > 0 && len(g.Disks) > hypervisor.MaxDisks {
		Drop(g, fmt.Sprintf("%d files, at most %d are carried along, and %d with the disks", n, maxCarried, hypervisor.MaxDisks))
	}
	return nil
}

// emptyFolders lists the folders that no file needs and that have none below them.
func (t *Tree) emptyFolders() {
	full := map[string]bool{}
	note := func(path string) {
		for at := range path {
			if path[at] == '/' {
				full[path[:at]] = true
			}
		}
	}
	for _, f := range t.files {
		note(f.rel)
	}
	for _, path := range slices.Concat(t.odd, t.folders) {
		note(path)
	}
	for _, folder := range t.folders {
		if full[folder] {
			continue
		}
		if err := t.names.AddFolder(folder); err != nil {
			t.defect(folder, "%s; rename it", plainly(err, folder))
			continue
		}
		t.config.Folders = append(t.config.Folders, folder)
	}
}

// Drop takes the tree out of a guest and leaves its disks; why is said in
// Guest.Unprotected. A guest without a tree stays as it is.
func Drop(g *hypervisor.Guest, why string) {
	if !slices.ContainsFunc(g.Disks, func(d hypervisor.Disk) bool { return d.File != "" }) {
		return
	}
	var disks []hypervisor.Disk
	files := 0
	for _, d := range g.Disks {
		if d.Carried {
			files++
			continue
		}
		d.File = ""
		disks = append(disks, d)
	}
	g.Disks = disks
	g.Unprotected = append([]hypervisor.Unprotected{{
		Key: "the exported tree", Reason: fmt.Sprintf("%s; configurations, saved states and checkpoints are not in the point (%d files), its disks are", why, files),
	}}, g.Unprotected...)
}

// disks are the guest's: those that the configuration names, in its order, then all
// others that no image is laid on. More is taken rather than less: only what a
// checkpoint's configuration names and the machine's does not is left to its files.
func (t *Tree) disks(g id.Guest) (out []hypervisor.Disk, err error) {
	used := map[string]bool{}
	add := func(m images.Image, identity string) {
		used[m.Path] = true
		d := hypervisor.Disk{ID: id.NewDisk(g, identity), Key: m.Key, Path: m.Path, Info: m.Info}
		if t.kept[m.Path] {
			d.File = t.rel(m.Path)
		}
		out = append(out, d)
	}
	slots := map[string]bool{}
	var named []vmconfig.Disk
	if t.config.Machine != nil {
		named = t.config.Machine.Disks
	}
	for _, d := range named {
		key := strings.TrimSpace(d.Slot() + " " + windowsBase(d.Path))
		m, why := t.imageOf(d)
		switch {
		case why != "":
			t.leaveOut(key, "%s", why)
			if d.Type == "VHD" {
				t.defect(t.config.File, "disk %s: %s", d.Slot(), why)
			}
		case t.broken[m.Path] != nil:
			return nil, fmt.Errorf("disk %s: %w", key, t.broken[m.Path])
		case used[m.Path]:
			t.leaveOut(key, "the same file as at another place")
		case slots[d.Slot()]:
			t.remark("%s: the configuration has two disks at %s", t.rel(m.Path), d.Slot())
			add(m, m.Key)
		default:
			slots[d.Slot()] = true
			add(m, "\x00slot "+d.Slot()) // stays when a checkpoint gives the disk another file
		}
	}
	configured := len(out) > 0
	for _, m := range t.found {
		err := t.broken[m.Path]
		switch {
		case err == nil:
		case !configured: // it may be what the machine runs on
			return nil, fmt.Errorf("disk %s: %w", t.rel(m.Path), err)
		default:
			bytes := "and its bytes are kept as a file"
			if !t.kept[m.Path] {
				bytes = "nor are its bytes kept"
			}
			t.leaveOut(m.Key, "%v; the machine does not run on it, %s", err, bytes)
			t.defect(t.rel(m.Path), "%v", err)
		}
	}
	for _, m := range images.Leaves(slices.DeleteFunc(slices.Clone(t.found), func(m images.Image) bool { return t.broken[m.Path] != nil })) {
		checkpoint, is := t.owners[m.Path]
		switch {
		case used[m.Path], configured && is && t.kept[m.Path]:
			continue
		case is && configured:
			t.remark("%s: of checkpoint %q, backed up as a disk because its file cannot be kept", t.rel(m.Path), checkpoint)
		case configured:
			t.remark("%s: not named by the configuration, backed up with the others", t.rel(m.Path))
		}
		add(m, m.Key)
	}
	return out, nil
}

// carried are the files of the tree that are kept byte for byte, in the order of their
// paths. Keys have a prefix, so that none is a disk's.
func (t *Tree) carried(g id.Guest, disks []hypervisor.Disk) (out []hypervisor.Disk) {
	own := map[string]bool{}
	for _, d := range disks {
		own[d.Path] = true
	}
	chained := len(t.config.Checkpoints) > 0 || len(t.broken) > 0 ||
		slices.ContainsFunc(t.found, func(m images.Image) bool { return len(m.Below) > 0 })
	for _, f := range t.files {
		if f.image && own[f.path] && !chained {
			continue
		}
		out = append(out, hypervisor.Disk{
			ID: id.NewDisk(g, "\x00file "+f.rel), Key: "tree/" + f.rel, Path: f.path, File: f.rel, Carried: true,
			Info: vdisk.Info{Format: "raw", VirtualSize: f.size, LogicalSector: 512, PhysicalSector: 512},
		})
	}
	return out
}

// imageOf is the image of a disk that a configuration names, or why there is none.
func (t *Tree) imageOf(d vmconfig.Disk) (m images.Image, why string) {
	name := windowsBase(d.Path)
	if d.Type != "VHD" {
		return m, fmt.Sprintf("a disk of type %s, which is not in a file (a pass-through disk)", d.Type)
	}
	if name == "" {
		return m, "the configuration names no file"
	}
	found := slices.Clone(t.byName[strings.ToLower(name)])
	if len(found) > 1 {
		folder := windowsBase(strings.TrimRight(d.Path[:len(d.Path)-len(name)], `\/`))
		found = slices.DeleteFunc(found, func(m images.Image) bool { return !strings.EqualFold(filepath.Base(filepath.Dir(m.Path)), folder) })
		if len(found) != 1 {
			return m, "several files have the name of " + d.Path
		}
	}
	if len(found) == 0 {
		return m, "the configuration names " + d.Path + ", which is not in the folder"
	}
	return found[0], ""
}

// index prepares imageOf.
func (t *Tree) index() {
	t.byName, t.owners = map[string][]images.Image{}, map[string]string{}
	for _, m := range t.found {
		name := strings.ToLower(filepath.Base(m.Path))
		t.byName[name] = append(t.byName[name], m)
	}
}

// windowsBase is the last element of a path of Windows, or of this system.
func windowsBase(path string) string {
	return path[strings.LastIndexAny(path, `\/`)+1:]
}
