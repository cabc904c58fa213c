package peers

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/bench/workload"
)

// plain is a program that needs nothing: it keeps a copy.
func plain() Adapter {
	return Adapter{
		Name: "copy", Init: []string{"true"}, Backup: []string{"cp", "--sparse=always", "{image}", "{repo}/{phase}"},
		Restore: []string{"cp", "--sparse=always", "{repo}/changed", "{out}/back"}, Restored: "{out}/back",
	}
}

// All programs run as they will be measured, on a small image, and give it back.
func TestPeersRun(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("figures are taken on Linux only")
	}
	base := t.TempDir()
	image, millrace := filepath.Join(base, "image.raw"), filepath.Join(base, "program")
	if err := workload.Random(image, 4<<20, 1); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", millrace, "github.com/millrace-backup/millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("build millrace: %v\n%s", err, out)
	}
	o := Options{Image: image, Dir: filepath.Join(base, "work"), Program: millrace, More: []Adapter{plain()}, Changed: 0.01, Runs: 1, Say: t.Logf}
	r, err := Measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Absent) > 0 {
		t.Logf("not installed (Debian packages restic, borgbackup): %q", r.Absent)
	}
	if len(r.Results) != len(r.Tools)*len(phases()) || len(r.Tools)+len(r.Absent) != 4 {
		t.Fatalf("%d results of %v", len(r.Results), r.Tools)
	}
	for _, x := range r.Results {
		// All of it is stored once; then nothing until it changes, when on so
		// small an image hardly a large chunk remains.
		most := int64(1 << 20)
		if x.Phase == full || x.Phase == changed || x.Tool == "copy" {
			most = 5 << 20
		}
		if x.CPU <= 0 && x.Tool != "copy" || x.Seconds <= 0 || x.LargestRSS <= 0 || x.Stored > most || x.Phase == full && x.Stored < 4<<20 {
			t.Errorf("%+v", x)
		}
		if (x.Metadata > 0) != (x.Tool == own) {
			t.Errorf("%s, %s: %d bytes of metadata", x.Tool, x.Phase, x.Metadata)
		}
	}
	var table bytes.Buffer
	if err := r.Print(&table); err != nil || strings.Count(table.String(), "\n| ") != 2+len(r.Results)+len(r.Checks) {
		t.Errorf("%v in\n%s", err, table.String())
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAdaptersAreChecked(t *testing.T) {
	for _, a := range append(builtin("/m"), plain()) {
		if err := a.Check(); err != nil {
			t.Error(err)
		}
	}
	for what, spoil := range map[string]func(*Adapter){
		"a name with a path": func(a *Adapter) { a.Name = "../x" },
		"no backup":          func(a *Adapter) { a.Backup = nil },
		"no restored image":  func(a *Adapter) { a.Restored = "" },
		"an unknown word":    func(a *Adapter) { a.Env = []string{"X={repository}"} },
	} {
		a := plain()
		if spoil(&a); a.Check() == nil {
			t.Errorf("%s was taken", what)
		}
	}
	p := newPlace(plain(), "/base", "/base/disk/image.raw")
	if got := strings.Join(p.fill(changed, "{image}", "{folder}", "{repo}/{phase}", "{home}", "{out}", "{password}"), " "); got !=
		"/base/disk/image.raw /base/disk /base/copy/repo/changed /base/copy/home /base/copy/out "+password {
		t.Error(got)
	}
}

func TestSame(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := bytes.Repeat([]byte("x"), 2<<20)
	a := write("a", long)
	if err := same(a, write("b", long)); err != nil {
		t.Error(err)
	}
	if same(a, write("c", long[1:])) == nil {
		t.Error("a shorter file was taken as the same")
	}
	long[1<<20] ^= 1
	if same(a, write("d", long)) == nil {
		t.Error("one changed bit was not seen")
	}
}
