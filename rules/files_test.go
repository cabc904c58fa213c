package rules

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// unwanted are texts that no committed file may hold. The patterns are written
// so that this file does not hold them either.
var unwanted = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`(^|[^a-z.])/wor[k]/[a-z.]`), "a path of one machine means nothing on the next one"},
	{regexp.MustCompile(`\.\./share[d]/`), "the project stands by itself: nothing outside the repository may be named"},
	{regexp.MustCompile(`/(home|Users)/[a-z]+/`), "a path of one machine means nothing on the next one"},
	{regexp.MustCompile(`(proxy|sum)\.golang\.or[g]|(deb|security|ftp)\.debian\.or[g]|registry\.npmjs\.or[g]|pypi\.or[g]`), "where packages come from is the machine's setting, not the project's"},
	{regexp.MustCompile(`-----BEGI[N] [A-Z ]*PRIVATE KEY`), "secrets are never committed"},
}

// tracked lists the files that are or will be committed.
func tracked(t *testing.T, root string) []string {
	t.Helper()
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("list tracked files: git: %v", err)
	}
	var names []string
	for name := range bytes.SplitSeq(list, []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names
}

func TestFiles(t *testing.T) {
	const root = ".."
	names := tracked(t, root)
	if len(names) == 0 {
		t.Fatal("git lists no files")
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			continue // deleted but not yet committed, a link to a folder, or not text
		}
		for _, p := range unwantedIn(name, text) {
			t.Error(p)
		}
	}
}

func unwantedIn(name string, text []byte) (out []problem) {
	for n, line := range bytes.Split(text, []byte("\n")) {
		for _, u := range unwanted {
			if found := u.pattern.Find(line); found != nil {
				out = append(out, problem{fmt.Sprintf("%s:%d", name, n+1), fmt.Sprintf("holds %q", found), u.why})
			}
		}
	}
	return out
}

func TestLicence(t *testing.T) {
	text, err := os.ReadFile("../LICENSE")
	if err != nil || !bytes.Contains(text, []byte("Apache License")) {
		t.Errorf("LICENSE is not the Apache licence: %v", err)
	}
}
