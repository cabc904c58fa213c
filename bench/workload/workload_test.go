package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func skipWithout(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrTool) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// tree makes a folder with what real trees have: folders in folders, empty
// files, links, names with spaces, and more bytes than fit.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"a/b/one": 100_000, "a/empty": 0, "with space": 5000, "too big": 40 << 20} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte(name), size/len(name)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b/one", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTreeIsTheSameEachTimeAndWhole(t *testing.T) {
	dir, from, ctx := t.TempDir(), tree(t), context.Background()
	one, two := filepath.Join(dir, "one.raw"), filepath.Join(dir, "two.raw")
	got, err := Tree(ctx, one, from, 32<<20)
	skipWithout(t, err)
	if got.Files != 3 || got.Skipped != 1 {
		t.Errorf("content %+v: want three files, and the one that does not fit left out", got)
	}
	if _, err := Tree(ctx, two, from, 32<<20); err != nil {
		t.Fatal(err)
	}
	if !sameFile(t, one, two) {
		t.Error("two images of the same folder differ")
	}
	fsck, err := find("e2fsck", "e2fsprogs")
	skipWithout(t, err)
	if out, err := exec.Command(fsck, "-fn", one).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	debugfs, err := find("debugfs", "e2fsprogs")
	skipWithout(t, err)
	for _, name := range []string{"a/b/one", "a/empty", "with space"} {
		copied := filepath.Join(dir, "copied")
		if out, err := exec.Command(debugfs, "-R", `dump "/`+name+`" `+copied, one).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v\n%s", err, out)
		}
		if !sameFile(t, copied, filepath.Join(from, name)) {
			t.Errorf("%s in the image is not %s in the folder", name, name)
		}
	}
}

func TestScatterChangesJustWhatItSays(t *testing.T) {
	dir := t.TempDir()
	image, same := filepath.Join(dir, "image"), filepath.Join(dir, "same")
	const blocks = 2000
	for _, path := range []string{image, same} {
		if err := Random(path, blocks*fsBlock+100, 7); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{image, same} {
		if n, err := Scatter(path, 0.01, 42); err != nil || n != 20 {
			t.Fatalf("changed %d blocks, %v; want 20", n, err)
		}
	}
	if !sameFile(t, image, same) {
		t.Error("the same seed changed different blocks")
	}
	after, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Fatalf("length went from %d to %d", len(before), len(after))
	}
	var changed, firstHalf int
	for n := range blocks {
		at := n * fsBlock
		if !bytes.Equal(before[at:at+fsBlock], after[at:at+fsBlock]) {
			changed++
			if n < blocks/2 {
				firstHalf++
			}
		}
	}
	if changed != 20 || firstHalf == 0 || firstHalf == changed {
		t.Errorf("%d blocks differ, %d in the first half; want 20 spread over the image", changed, firstHalf)
	}
}

func TestVHDXHoldsTheSameDisk(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	raw := filepath.Join(dir, "disk.raw")
	if err := Random(raw, 3<<20, 1); err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"dynamic", "fixed"} {
		out := filepath.Join(dir, variant+".vhdx")
		skipWithout(t, VHDX(ctx, raw, out, variant))
		if said, err := exec.Command("qemu-img", "compare", raw, out).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", variant, err, said)
		}
	}
	if VHDX(ctx, raw, filepath.Join(dir, "x"), "differencing") == nil {
		t.Error("an unknown variant was taken")
	}
}

func TestBadSizesAreRefused(t *testing.T) {
	for _, size := range []int64{0, 1 << 20, 16<<20 + 1} {
		if _, err := Tree(context.Background(), filepath.Join(t.TempDir(), "x"), t.TempDir(), size); err == nil || errors.Is(err, ErrTool) {
			t.Errorf("size %d: got %v", size, err)
		}
	}
}

func TestEditChangesFilesAndKeepsTheFileSystemSound(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	from := t.TempDir()
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(from, fmt.Sprintf("%02d", i)), bytes.Repeat([]byte{byte(i)}, 20_000+i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	image, before := filepath.Join(dir, "image"), filepath.Join(dir, "before")
	content, err := Tree(ctx, image, from, 32<<20)
	skipWithout(t, err)
	if _, err := Tree(ctx, before, from, 32<<20); err != nil {
		t.Fatal(err)
	}
	got, err := Edit(ctx, image, content, 0.2)
	if err != nil || got.Edited != 2 || got.Removed != 2 || got.Added != 2 || got.Bytes < 80_000 {
		t.Errorf("%+v, %v; want two files of each kind", got, err)
	}
	if sameFile(t, image, before) {
		t.Error("nothing changed")
	}
	if err := Check(ctx, image); err != nil {
		t.Error(err)
	}
	debugfs, err := find("debugfs", "e2fsprogs")
	skipWithout(t, err)
	edited := filepath.Join(dir, "edited")
	if out, err := exec.Command(debugfs, "-R", "dump /02 "+edited, image).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	text, err := os.ReadFile(edited)
	if err != nil || string(text) != "changed as number 0\n"+string(bytes.Repeat([]byte{2}, 20_002)) {
		t.Errorf("the edited file has %d bytes, %v", len(text), err)
	}
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if Check(ctx, image) == nil {
		t.Error("an image without a file system passed the check")
	}
}
