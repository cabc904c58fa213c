package read

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/events"
)

// A disk's key comes out of a guest or a vault: whatever it is, the file lies in
// the folder that was asked for and has a name every system takes.
func TestFileNames(t *testing.T) {
	for key, want := range map[string]string{
		"web.vhdx":                 "web.raw",
		"disk.RAW":                 "disk.raw",
		"data":                     "data.raw",
		"backup.2026.tar":          "backup.2026.tar.raw",
		"folder/sub/one.vhdx":      "one.raw",
		`C:\VMs\two.vhd`:           "two.raw",
		"../../etc/passwd":         "passwd.raw",
		"":                         "",
		"..":                       "",
		"...":                      "",
		".hidden":                  "hidden.raw",
		"nul.vhdx":                 "",
		"com1":                     "",
		"a\nb\x00c":                "a_b_c.raw",
		"what?.img":                "what_.raw",
		strings.Repeat("long", 80): "",
	} {
		if got := fileName(key, ".raw"); got != want {
			t.Errorf("key %q: got %q, want %q", key, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	dir := t.TempDir()
	names := func(keys ...string) (d []events.PointDisk) {
		for _, k := range keys {
			d = append(d, events.PointDisk{Key: k})
		}
		return d
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		disks []events.PointDisk
		to    string
		want  string // below dir, separated by spaces; empty: an error
	}{
		{"one disk, a file to make", names("a.vhdx"), "new", "new"},
		{"one disk, a file that is there", names("a.vhdx"), "file", "file"},
		{"one disk, a folder that is there", names("a.vhdx"), "", "a.raw"},
		{"one disk, a folder to make", names("a.vhdx"), "made/", "made/a.raw"},
		{"several disks", names("a.vhdx", "b.raw"), "several", "several/a.raw several/b.raw"},
		{"disks that would have one name", names("x/a.vhd", "y/A.vhdx", ".."), "twins", "twins/a.raw twins/disk-1.raw twins/disk-2.raw"},
		{"a disk whose own name is that of another without one", names("a.vhdx", "disk-2.avhdx", "disk-2.vhdx"), "numbered",
			"numbered/a.raw numbered/disk-2.raw numbered/disk-3.raw"},
		{"names given before they are asked for", names("..", "disk-0.raw", "disk-1.raw"), "early", "early/disk-0.raw early/disk-1.raw early/disk-2.raw"},
		{"several disks onto a file", names("a", "b"), "file", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := dir + string(filepath.Separator) + c.to
			got, err := targets(c.disks, to, ".raw")
			var short []string
			for _, g := range got {
				rel, relErr := filepath.Rel(dir, g)
				if relErr != nil {
					t.Fatal(relErr)
				}
				short = append(short, filepath.ToSlash(rel))
			}
			if strings.Join(short, " ") != c.want || (err != nil) != (c.want == "") {
				t.Errorf("got %v, %v; want %s", short, err, c.want)
			}
		})
	}
}
