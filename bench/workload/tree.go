package workload

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const (
	fsBlock = 4096
	// One inode per 8 KiB: trees such as /usr hold many small files, and the
	// usual one per 16 KiB would run out before the blocks do.
	bytesPerInode = 8192
	// The share of an image that files may take; the rest is the file system's
	// own tables and the free space that every real disk has.
	fillPercent = 80
	// Every time in the image, so that the bytes do not depend on the clock.
	fixedTime = "E2FSPROGS_FAKE_TIME=1700000000"
)

// Content says what went into an image.
type Content struct {
	Files   int   // regular files
	Bytes   int64 // their sizes added up
	Skipped int   // entries left out: unreadable, special, or no room left

	folder string   // where they came from
	paths  []string // of the regular files in it, with slashes, in their order
}

// Tree makes a sparse raw image of size bytes (a multiple of 1 MiB, at least
// 16 MiB) at out, holding one ext4 file system without a partition table. It is
// filled in path order with the regular files, symbolic links and folders found
// under folder until four fifths of it are used; files that this user may not
// read are left out. Owner is root and modes are kept.
//
// The files are put in with debugfs rather than with mke2fs -d: that one copies
// the change times of its source, which nobody can set, so no two images made
// with it are equal.
func Tree(ctx context.Context, out, folder string, size int64) (Content, error) {
	return plant(ctx, out, folder, size, nil)
}

// Similar makes an image as Tree does, of guest number n of many that are alike: one
// file in twenty is left out, and the others lie in another order. Which and how
// depends on n alone, so that two guests have nine files in ten in common, most of
// them at other places.
func Similar(ctx context.Context, out, folder string, size int64, n uint64) (Content, error) {
	return plant(ctx, out, folder, size, rand.New(source(n)))
}

func plant(ctx context.Context, out, folder string, size int64, order *rand.Rand) (Content, error) {
	if size < 16<<20 || size%(1<<20) != 0 {
		return Content{}, fmt.Errorf("make image %s: size %d is not a multiple of 1 MiB from 16 MiB up", out, size)
	}
	mke2fs, err := find("mke2fs", "e2fsprogs")
	if err != nil {
		return Content{}, err
	}
	if _, err := find("debugfs", "e2fsprogs"); err != nil {
		return Content{}, err
	}
	if err := Zero(out, size); err != nil {
		return Content{}, err
	}
	if _, err := call(ctx, []string{fixedTime}, mke2fs, "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(fsBlock),
		"-i", fmt.Sprint(bytesPerInode), "-m", "0", "-L", "workload",
		"-U", "6d696c6c-7261-6365-0000-000000000001",
		"-E", "hash_seed=6d696c6c-7261-6365-0000-000000000002,root_owner=0:0", out); err != nil {
		return Content{}, fmt.Errorf("make file system in %s: %w", out, err)
	}
	script, content, err := writeScript(ctx, folder, size, order)
	if err != nil {
		return Content{}, err
	}
	defer os.Remove(script)
	if err := runScript(ctx, script, out); err != nil {
		return Content{}, fmt.Errorf("fill %s from %s: %w", out, folder, err)
	}
	return content, nil
}

// runScript has debugfs carry out the commands of a file on an image.
func runScript(ctx context.Context, script, image string) error {
	debugfs, err := find("debugfs", "e2fsprogs")
	if err != nil {
		return err
	}
	said, err := call(ctx, []string{fixedTime, "DEBUGFS_PAGER=__none__"}, debugfs, "-w", "-f", script, image)
	if err != nil {
		return err
	}
	// debugfs exits 0 whatever its commands did; what went wrong is on stderr,
	// after one line with its version.
	if _, complaint, _ := strings.Cut(strings.TrimSpace(said), "\n"); complaint != "" {
		first, _, _ := strings.Cut(complaint, "\n")
		return fmt.Errorf("debugfs: %s", first)
	}
	return nil
}

// writeScript puts the debugfs commands that rebuild folder into a temporary
// file: names are absolute, because a command file cannot recover from a cd. With an
// order, files come after all folders, in that order, and a part of them.
func writeScript(ctx context.Context, folder string, size int64, order *rand.Rand) (string, Content, error) {
	f, err := os.CreateTemp("", "millrace-workload-*.debugfs")
	if err != nil {
		return "", Content{}, fmt.Errorf("make debugfs script: %w", err)
	}
	w := bufio.NewWriter(f)
	b := budget{bytes: size / 100 * fillPercent, inodes: size / bytesPerInode / 100 * fillPercent}
	content := Content{folder: folder}
	var files []string
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel, relErr := filepath.Rel(folder, path)
		if rel == "." {
			return err // the folder itself must be readable
		}
		line, size, ok := command(path, filepath.ToSlash(rel), d)
		if err != nil || relErr != nil || !ok || !b.take(size) {
			content.Skipped++
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && order != nil {
			if order.IntN(20) == 0 {
				content.Skipped++
				return nil
			}
			files, line = append(files, line), ""
		}
		if d.Type().IsRegular() {
			content.Files++
			content.Bytes += size
			content.paths = append(content.paths, filepath.ToSlash(rel))
		}
		_, err = w.WriteString(line)
		return err
	})
	if order != nil {
		order.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	}
	for _, line := range files {
		_, _ = w.WriteString(line) // Flush tells
	}
	if err == nil {
		err = w.Flush()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", Content{}, fmt.Errorf("list files of %s: %w", folder, err)
	}
	return f.Name(), content, nil
}

// command returns the debugfs command that makes one entry and the bytes its
// data takes. Names that debugfs cannot be told about (quotes, control
// characters) and special files are not ok.
func command(path, rel string, d fs.DirEntry) (line string, size int64, ok bool) {
	if strings.ContainsFunc(path, func(r rune) bool { return r == '"' || r < ' ' }) {
		return "", 0, false
	}
	switch d.Type() {
	case fs.ModeDir:
		return fmt.Sprintf("mkdir \"/%s\"\n", rel), fsBlock, true
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil || strings.ContainsAny(target, "\"\n") {
			return "", 0, false
		}
		return fmt.Sprintf("symlink \"/%s\" \"%s\"\n", rel, target), 0, true
	case 0:
		f, err := os.Open(path)
		if err != nil {
			return "", 0, false
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return "", 0, false
		}
		return fmt.Sprintf("write \"%s\" \"/%s\"\n", path, rel), info.Size(), true
	}
	return "", 0, false
}

// budget is the room left in an image.
type budget struct{ bytes, inodes int64 }

// take accounts for one entry with size bytes of data, in whole blocks, and
// reports whether it fits.
func (b *budget) take(size int64) bool {
	size = (size + fsBlock - 1) / fsBlock * fsBlock
	if size > b.bytes || b.inodes == 0 {
		return false
	}
	b.bytes -= size
	b.inodes--
	return true
}
