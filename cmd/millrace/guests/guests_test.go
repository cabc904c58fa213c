package guests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/sets"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/selection"
)

// resolve resolves a set over all that is in a folder, if change says nothing else.
func resolve(t *testing.T, dir string, change func(*events.SetDefined)) Found {
	t.Helper()
	f := events.SetDefined{Set: "s", Sources: []events.SetSource{{Source: "folder:" + filepath.Join(dir, "*")}}}
	change(&f)
	d, err := selection.Parse(f, 1)
	if err != nil {
		t.Fatal(err)
	}
	found, err := Options{Vault: id.Vault{7}}.Resolve(t.Context(), catalog.New(), &sets.Set{Fact: f, Position: 1}, d)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// folderOf makes a folder with files of these names, each of 64 KiB of zeros.
func folderOf(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, n), make([]byte, 1<<16), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(f Found) string {
	var out []string
	for _, g := range f.Guests {
		out = append(out, g.Name)
	}
	return strings.Join(out, " ")
}

// Who may write into a folder of images does not choose what is read elsewhere.
func TestLinksAndHiddenNamesAreNotListed(t *testing.T) {
	secret := folderOf(t, "shadow.raw", "vm/disk.raw")
	dir := folderOf(t, "a.raw", ".hidden.raw", "notes.txt", "vm1/disk.raw")
	for name, to := range map[string]string{"link.raw": filepath.Join(secret, "shadow.raw"), "linked": filepath.Join(secret, "vm")} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Skip("no links here: ", err)
		}
	}
	f := resolve(t, dir, func(*events.SetDefined) {})
	if got := names(f); got != "a.raw vm1" || len(f.Failed) != 0 || f.Fact.Sources[0].Passed != 3 {
		t.Errorf("got %q, failed %+v, %+v", got, f.Failed, f.Fact.Sources)
	}
}

// One guest that two sources list is one, with the tags of both; one that two paths
// lead to by different names is nobody's to choose.
func TestTheSameGuestTwice(t *testing.T) {
	dir := folderOf(t, "a.raw", "b.raw")
	f := resolve(t, dir, func(s *events.SetDefined) {
		s.Sources[0].Tags = []string{"all"}
		s.Sources = append(s.Sources, events.SetSource{Source: "folder:" + filepath.Join(dir, "a.raw"), Tags: []string{"one"}})
		s.Selectors = []string{"tag:one"}
		s.Excludes = []string{"name:b*"}
	})
	if got := names(f); got != "a.raw" || len(f.Failed) != 0 || len(f.Fact.Guests) != 2 {
		t.Errorf("got %q, failed %+v", got, f.Failed)
	}
}

func TestWhatIsNotThereIsAFailure(t *testing.T) {
	dir := folderOf(t, "a.raw")
	empty := t.TempDir()
	for name, source := range map[string]string{
		"no folder": filepath.Join(dir, "none", "*"), "nothing in it": filepath.Join(empty, "*"), "no match": filepath.Join(dir, "z*"),
		"no file": filepath.Join(dir, "z.raw"), "no images": empty,
	} {
		f := resolve(t, dir, func(s *events.SetDefined) {
			s.Sources = append(s.Sources, events.SetSource{Source: "folder:" + source})
		})
		if len(f.Failed) != 1 || f.Failed[0].Op != "list guests of" || f.Failed[0].Cause == "" || names(f) != "a.raw" || f.Fact.Sources[1].Cause == "" {
			t.Errorf("%s: guests %q, failed %+v", name, names(f), f.Failed)
		}
	}
}

// A disk that cannot be read is a guest that fails if the set means it, and stops no
// other. Its name is sure, so a set that means others only passes it over.
func TestWhatCannotBeReadStopsNoOther(t *testing.T) {
	dir := folderOf(t, "a.raw")
	if err := os.WriteFile(filepath.Join(dir, "bad.vhdx"), []byte("this is none"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := resolve(t, dir, func(*events.SetDefined) {})
	if names(f) != "a.raw" || len(f.Failed) != 1 || f.Failed[0].Name != "bad.vhdx" {
		t.Errorf("guests %q, failed %+v", names(f), f.Failed)
	}
	f = resolve(t, dir, func(s *events.SetDefined) { s.Selectors = []string{"name:a*"} })
	if names(f) != "a.raw" || len(f.Failed) != 0 {
		t.Errorf("guests %q, failed %+v", names(f), f.Failed)
	}
}
