package tree_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/restore/tree"
)

// What is on the disk after a power cut is what was synced: each file before it has its
// name, all names of disks and states before a configuration has one, and all names in
// the end. The system calls of a process say so.
func TestOrderOfSyncs(t *testing.T) {
	if to := os.Getenv("TREE_TO"); to != "" {
		v, p := point(t, 1<<20, "Virtual Machines/m.vmcx", "Virtual Hard Disks/b.avhdx", "Snapshots/s.xml", "Snapshots/s.vsv", "x")
		plan, err := tree.NewPlan(p)
		must(t, err)
		_, err = plan.Write(t.Context(), v, to, options())
		must(t, err)
		return
	}
	if out, err := exec.Command("strace", "-f", "-y", "-qq", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("strace is not there or may not trace: %v: %s", err, out)
	}
	to, log := filepath.Join(t.TempDir(), "to"), filepath.Join(t.TempDir(), "log")
	child := exec.Command("strace", "-f", "-y", "-qq", "-o", log, "-e", "trace=fsync,fdatasync,linkat", os.Args[0], "-test.run=^TestOrderOfSyncs$")
	child.Env = append(os.Environ(), "TREE_TO="+to)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(log)
	must(t, err)
	call := regexp.MustCompile(`(fsync|fdatasync|linkat)\(\d+<([^>]*)>(?:, "([^"]*)", \d+<[^>]*>, "([^"]*)")?`)
	synced, named := map[string]bool{}, 0 // synced since the last name
	folders := []string{to, filepath.Join(to, "Snapshots"), filepath.Join(to, "Virtual Hard Disks"), filepath.Join(to, "Virtual Machines")}
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(folders), func(f string) bool { return synced[f] })
	}
	configurations := false
	for _, line := range strings.Split(string(text), "\n") {
		m := call.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[2], to) {
			continue
		}
		if m[1] != "linkat" {
			synced[m[2]] = true
			continue
		}
		named++
		if !synced[filepath.Join(m[2], m[3])] {
			t.Errorf("%s has its name before it was synced", m[4])
		}
		first := !configurations && (strings.HasSuffix(m[4], ".vmcx") || strings.HasSuffix(m[4], ".xml"))
		if left := missing(); first && len(left) > 0 {
			t.Errorf("%s has its name before %q were synced", m[4], left)
		}
		if configurations = configurations || first; configurations && !first && !strings.HasSuffix(m[4], ".vmcx") && !strings.HasSuffix(m[4], ".xml") {
			t.Errorf("%s has its name after a configuration", m[4])
		}
		for _, folder := range folders {
			delete(synced, folder)
		}
	}
	if left := missing(); named != 5 || len(left) > 0 {
		t.Errorf("%d files got their names, and %q were not synced after the last", named, left)
	}
}
