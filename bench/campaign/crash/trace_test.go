package crash

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vault/store/crashfs"
)

// hexed writes strings and paths as strace -xx does.
func hexed(text string) string {
	code := func(s string) string {
		out := ""
		for i := range len(s) {
			out += `\x` + hex.EncodeToString([]byte{s[i]})
		}
		return out
	}
	return regexp.MustCompile(`"[^"]*"|</[^>]*>`).ReplaceAllStringFunc(text, func(s string) string {
		return s[:1] + code(s[1:len(s)-1]) + s[len(s)-1:]
	})
}

func TestParse(t *testing.T) {
	start := crashfs.New("/d", "/d/sub")
	log, err := parse(strings.NewReader(hexed(`10  openat(AT_FDCWD</w>, "/d/a", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 3</d/a>
10  write(3</d/a>, "one", 3 <unfinished ...>
11  write(1</told>, "{}", 2) = 2
10  <... write resumed>)              = 3
10  pwrite64(3</d/a>, "XY", 2, 1) = 2
10  write(3</d/a>, "four", 4) = 2
10  openat(AT_FDCWD</w>, "/d/missing", O_WRONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)
10  fsync(3</d/a>) = 0
10  renameat2(AT_FDCWD</w>, "/d/a", AT_FDCWD</w>, "/d/sub/b", RENAME_NOREPLACE) = 0
10  fsync(4</d/sub>) = 0
12  openat(AT_FDCWD</w>, "/d/sub/b", O_WRONLY|O_APPEND|O_CLOEXEC) = 5</d/sub/b>
12  writev(5</d/sub/b>, [{iov_base="!", iov_len=1}, {iov_base="?", iov_len=1}], 2) = 2
12  ftruncate(5</d/sub/b>, 8) = 0
12  unlinkat(6</d/sub>, "b", 0) = 0
12  write(5</d/sub/b>(deleted), "gone", 4) = 4
12  openat(AT_FDCWD</w>, "/elsewhere", O_RDWR|O_CREAT, 0600) = 7</elsewhere>
12  write(7</elsewhere>, "no", 2) = 2
12  +++ exited with 0 +++
`)), start, "/d", "/told")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, e := range log {
		fmt.Fprintln(&got, e)
	}
	const want = `create /d/a as #1
note "{}"
write #1 0+3
write #1 1+2
write #1 3+2
sync #1
publish /d/a -> /d/sub/b
syncdir /d/sub
write #1 5+2
truncate #1 8
remove /d/sub/b
`
	if got.String() != want {
		t.Errorf("effects:\n%swant:\n%s", got.String(), want)
	}
	for n, e := range log {
		if e.Op == crashfs.OpRemove { // the last instant at which there is a file
			for _, e := range log[:n] {
				if err := start.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if b, err := start.ReadFile("/d/sub/b"); err != nil || string(b) != "oXYfo!?\x00" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// What is not understood must not be passed over.
func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, line := range []string{
		`10  symlinkat("/x", AT_FDCWD</w>, "/d/a") = 0`,
		`10  copy_file_range(3</x>, NULL, 4</d/f>, NULL, 10, 0) = 10`,
		`10  fallocate(4</d/f>, 0, 0, 10) = 0`,
		`10  renameat(AT_FDCWD</w>, "/d/f", AT_FDCWD</w>, "/elsewhere") = 0`,
		`10  unlinkat(AT_FDCWD</w>, "/d/never-made", 0) = 0`,
	} {
		start := crashfs.New("/d")
		if err := start.Apply(crashfs.Effect{Op: crashfs.OpCreate, Path: "/d/f", File: 1}); err != nil {
			t.Fatal(err)
		}
		if log, err := parse(strings.NewReader(hexed(line)+"\n"), start, "/d", "/told"); err == nil {
			t.Errorf("%s: no error, %v", line, log)
		}
	}
}
