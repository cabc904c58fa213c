package export

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	for _, path := range []string{
		"a", "Virtual Hard Disks/web server.vhdx", "Snapshots/5C8A.vmcx", "grün/日本", "a.b.c", ".hidden", "..a", "COM", "COM10", "LPT", "nullify", "con-1", strings.Repeat("a/", 15) + "a",
	} {
		if err := CheckPath(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{
		"", "/", "/etc/passwd", "a/", "a//b", ".", "./a", "..", "../a", "a/../b", "a/..", `a\b`, `..\a`, "C:", "C:/a", "c:a", "a:stream", `\\server\share`, "//server/share",
		"a\x00b", "a\nb", "\x7f", "a?", "a*", "<", ">", "|", `"`, "a.", "a ", "a/b./c", "... ", "\xff",
		"CON", "con", "Con.txt", "con .x", "nul", "AUX.vmcx", "prn", "a/COM1/b", "com9.x", "LPT0", "COM¹", "conin$", "CONOUT$",
		strings.Repeat("a", 201), strings.Repeat("a/", 16) + "a", strings.Repeat("abcdefgh/", 130) + "a",
	} {
		if err := CheckPath(path); !errors.Is(err, ErrPath) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestNamesThatAreOneSomewhere(t *testing.T) {
	for _, c := range []struct {
		paths []string
		ok    bool
	}{
		{[]string{"a/b", "a/c", "b"}, true},
		{[]string{"a/b", "a/b"}, false},
		{[]string{"a/b", "a/B"}, false},
		{[]string{"a/b", "A/c"}, false},
		{[]string{"a", "a/b"}, false},
		{[]string{"a/b", "a"}, false},
		{[]string{"ä", "Ä"}, false},
		{[]string{"k", "\u212a"}, false}, // the sign of Kelvin
		{[]string{"σ", "ς"}, false},
	} {
		var n Names
		var err error
		for _, path := range c.paths {
			err = errors.Join(err, n.AddFile(path))
		}
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrPath) {
			t.Errorf("%q: %v", c.paths, err)
		}
	}
	var n Names
	for _, path := range []string{"b/c/d", "a/x", "b/y"} {
		if err := n.AddFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.AddFolder("a/empty"); err != nil {
		t.Fatal(err)
	}
	if err := n.AddFolder("b"); err != nil {
		t.Fatal(err)
	}
	if got := n.Folders(); !slices.Equal(got, []string{"a", "a/empty", "b", "b/c"}) {
		t.Errorf("folders %q", got)
	}
}

// FuzzNames: whatever is taken lies inside the folder, on any system.
func FuzzNames(f *testing.F) {
	for _, path := range []string{"a/b", "../x", "C:/y", `a\..\b`, "con/a", "A/B", "Ａ", "a/../../b"} {
		f.Add(path, "a/B")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		var n Names
		if n.AddFile(one) != nil {
			return
		}
		if !filepath.IsLocal(filepath.FromSlash(one)) || strings.ContainsAny(one, "\\:\x00") || filepath.ToSlash(filepath.Clean(one)) != one {
			t.Fatalf("%q was taken", one)
		}
		if n.AddFile(two) == nil && strings.EqualFold(one, two) {
			t.Errorf("%q and %q were taken", one, two)
		}
	})
}
