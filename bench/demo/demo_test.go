package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/bench/workload"
)

// millrace builds the program, as the demo runs nothing less.
func millrace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace")
	if said, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, said)
	}
	return path
}

// files is a folder with files of many sizes, of which half compress well.
func files(t *testing.T) string {
	t.Helper()
	dir, rnd := t.TempDir(), rand.NewChaCha8([32]byte{1})
	for n := range 120 {
		b := bytes.Repeat(fmt.Appendf(nil, "line of file %d\n", n), n*100)
		if n%2 == 0 {
			b = make([]byte, n*4000)
			_, _ = rnd.Read(b)
		}
		path := filepath.Join(dir, fmt.Sprint("folder ", n%7), fmt.Sprint(n))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t *testing.T, o Options) (Result, string, error) {
	t.Helper()
	var out bytes.Buffer
	o.Out = &out
	r, err := Run(t.Context(), o)
	if errors.Is(err, workload.ErrTool) {
		t.Skip(err)
	}
	return r, out.String(), err
}

func TestRun(t *testing.T) {
	program := millrace(t)
	t.Setenv("MILLRACE_VAULT", "/nowhere") // the user's settings are not the demo's
	t.Setenv("HOME", "")
	parent := t.TempDir()
	r, out, err := run(t, Options{Program: program, Files: files(t), Parent: parent, Size: 48 << 20})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r.Files != 120 || r.DiskBytes != 48<<20 || r.ChangeBytes == 0 || r.First.StoredBytes < 10<<20 ||
		r.Second.StoredBytes == 0 || r.Second.StoredBytes > r.First.StoredBytes/4 || len(r.Restores) != 2 {
		t.Errorf("%+v", r)
	}
	at := 0
	for _, want := range []string{
		"$ millrace init\n", "recovery key  MRK1-", "$ millrace backup folder:web\n", "$ millrace audit show latest\n", "\nstages, ",
		"$ millrace backup folder:web\n", "$ millrace points\n", " --to restored1.raw\n", "restored1.raw is day1.raw, byte for byte: 50331648",
		" --to restored2.raw\n", "restored2.raw is day2.raw, byte for byte: 50331648", "$ millrace verify --read-data\n",
	} {
		n := strings.Index(out[at:], want)
		if n < 0 {
			t.Fatalf("no %q after byte %d of\n%s", want, at, out)
		}
		at += n + len(want)
	}
	if !strings.HasSuffix(out, "\ndemo: everything equal\n") {
		t.Errorf("ends with %q", out[len(out)-100:])
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A program that restores one wrong byte is found out, and the evidence kept.
func TestRunFindsAWrongByte(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("needs sh")
	}
	liar := filepath.Join(t.TempDir(), "liar")
	script := "#!/bin/sh\n" + millrace(t) + ` "$@" || exit
if [ "$1" = restore ] && [ "$4" = restored2.raw ]; then
	printf X | dd of=restored2.raw bs=1 seek=9999999 conv=notrunc 2>/dev/null
fi
`
	if err := os.WriteFile(liar, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	_, out, err := run(t, Options{Program: liar, Files: files(t), Parent: parent, Size: 48 << 20})
	if !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "in 1 of their blocks of 4 KiB, first at byte 9999999") || strings.Contains(out, "everything equal") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 || !strings.Contains(out, "The folder is kept: "+parent) {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRunEnds(t *testing.T) {
	parent := t.TempDir()
	_, out, err := run(t, Options{Program: "/bin/false", Files: files(t), Parent: parent, Size: MinSize})
	if err == nil || !strings.Contains(err.Error(), "millrace init: ") || errors.Is(err, ErrDiffers) {
		t.Errorf("program fails: %v\n%s", err, out)
	}
	for _, size := range []int64{0, MinSize - 1<<20, MinSize + 1} {
		if _, _, err := run(t, Options{Program: "/bin/false", Files: ".", Parent: parent, Size: size}); err == nil {
			t.Errorf("size %d was taken", size)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{Program: "/bin/false", Files: files(t), Parent: parent, Size: MinSize, Out: new(bytes.Buffer)}); !errors.Is(err, context.Canceled) && !errors.Is(err, workload.ErrTool) {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int, changed ...int) string {
		b := make([]byte, size)
		for _, at := range changed {
			b[at] = 1
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const size = 2*copyPiece + 100
	for _, c := range []struct {
		a, b string
		want difference
	}{
		{write("1", size), write("2", size), difference{}},
		{write("3", size, copyPiece+5000, copyPiece+5001, size-1), write("4", size), difference{2, copyPiece + 5000}},
		{write("5", size), write("6", size-1), difference{1, size - 1}},
		{write("7", 100), write("8", 3*compareBlock), difference{3, 100}},
		{write("9", 0), write("10", 1), difference{1, 0}},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if got, err := compare(t.Context(), pair[0], pair[1]); err != nil || got != c.want {
				t.Errorf("%s: %+v, %v; want %+v", pair, got, err, c.want)
			}
		}
	}
}
