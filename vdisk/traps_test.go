package vdisk_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/format/vdisk-traps.md names only tests that there are.
func TestTrapsAreHeld(t *testing.T) {
	page, err := os.ReadFile(filepath.FromSlash("../docs/format/vdisk-traps.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)\\.(Test\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 50 {
		t.Errorf("the page names %d tests", len(named))
	}
	there := map[string]string{}
	for _, n := range named {
		folder := n[1]
		if there[folder] == "" {
			files, err := filepath.Glob(filepath.Join(filepath.FromSlash(folder), "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				there[folder] += string(text)
			}
		}
		if !strings.Contains(there[folder], "\nfunc "+n[2]+"(") {
			t.Errorf("%s has no %s", folder, n[2])
		}
	}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); strings.HasPrefix(line, "| ") && len(cells) == 4 && !strings.HasPrefix(cells[1], " **") &&
			!strings.Contains(cells[2], "`") && cells[2] != " test " {
			t.Errorf("no test holds %s", cells[1])
		}
	}
}
