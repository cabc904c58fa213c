package main

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

// All tools run as they will be measured, on a small image, and give it back.
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
	var r report
	here, err := prepare(t.Context(), millrace, base, image, &r)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Absent) > 0 {
		t.Logf("not installed (Debian packages restic, borgbackup): %q", r.Absent)
	}
	o := options{ratio: 0.01, runs: 1}
	if err := once(t.Context(), o, 0, here, image, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != len(here)*len(phases()) {
		t.Fatalf("%d results", len(r.Results))
	}
	for _, x := range r.Results {
		// All of it is stored once; then nothing until it changes, when on so
		// small an image hardly a large chunk remains.
		most := int64(1 << 20)
		if x.Phase == "full" || x.Phase == "changed" {
			most = 5 << 20
		}
		if x.CPU <= 0 || x.Seconds <= 0 || x.LargestRSS <= 0 || x.Stored > most || x.Phase == "full" && x.Stored < 4<<20 {
			t.Errorf("%+v", x)
		}
	}
	var table bytes.Buffer
	if err := r.print(&table); err != nil || strings.Count(table.String(), "\n| ") != 1+len(r.Results) {
		t.Errorf("%v in\n%s", err, table.String())
	}
}

func TestSpread(t *testing.T) {
	seconds := func(x result) float64 { return x.Seconds }
	for want, of := range map[string][]result{
		"2.0":           {{Seconds: 2}},
		"3.0 (2.0–9.0)": {{Seconds: 9}, {Seconds: 2}, {Seconds: 3}},
		"2.5 (2.0–3.0)": {{Seconds: 3}, {Seconds: 2}},
	} {
		if got := spread(of, "%.1f", seconds); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
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
