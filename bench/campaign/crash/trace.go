package crash

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace-backup/millrace/vault/store/crashfs"
)

// calls are the system calls that change a file system. Those of them that trace
// does not understand end the recording, if they touch the folder that is watched.
const calls = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fsync,fdatasync,rename,renameat,renameat2," +
	"link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fallocate,copy_file_range,sendfile,splice,bind"

// longest is the longest write that a trace holds whole.
const longest = 1 << 26

// record runs a command and everything it starts under strace, and returns every
// effect they had on the folder root, which start holds, in the order in which the
// calls returned. What they wrote to the file told are notes: what the outside heard,
// and when.
func record(ctx context.Context, start *crashfs.Disk, root, told, work string, c *exec.Cmd) ([]crashfs.Effect, error) {
	file := filepath.Join(work, "trace")
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil, fmt.Errorf("%w: it records what the program does to the disk", err)
	}
	args := append([]string{"-f", "-y", "-qq", "--seccomp-bpf", "-xx", "-s", strconv.Itoa(longest), "-e", "trace=" + calls, "-e", "signal=none", "-o", file}, c.Args...)
	out, err := os.Create(told)
	if err != nil {
		return nil, err
	}
	traced := exec.CommandContext(ctx, strace, args...)
	traced.Env, traced.Stdout, traced.Dir = c.Env, out, c.Dir
	var stderr strings.Builder
	traced.Stderr = &stderr
	err = errors.Join(traced.Run(), out.Close())
	if err != nil {
		return nil, fmt.Errorf("run %v: %w\n%s", c.Args, err, stderr.String())
	}
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return parse(in, start, root, told)
}

// trace turns system calls into effects.
type trace struct {
	root, told string
	disk       *crashfs.Disk  // as the effects so far left it
	ids        map[string]int // open files by path
	at         map[int]int64  // where the next write of a file goes
	last       int
	out        []crashfs.Effect
}

// parse reads what strace -f -y -xx wrote.
func parse(in io.Reader, start *crashfs.Disk, root, told string) ([]crashfs.Effect, error) {
	t := &trace{root: root, told: told, disk: start.Crash(crashfs.Kept, 0), ids: map[string]int{}, at: map[int]int64{}}
	halves := map[string]string{} // calls that another thread's came between
	r := bufio.NewReaderSize(in, 1<<20)
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return t.out, nil
		}
		if err != nil {
			return nil, err
		}
		line = strings.TrimSuffix(line, "\n")
		thread, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimLeft(rest, " ")
		if first, cut := strings.CutSuffix(rest, "<unfinished ...>"); cut {
			halves[thread] = first
			continue
		}
		if strings.HasPrefix(rest, "<... ") {
			_, second, _ := strings.Cut(rest, "resumed>")
			rest = halves[thread] + second
		}
		if err := t.call(rest); err != nil {
			return nil, fmt.Errorf("trace line %d: %.300s: %w", n, rest, err)
		}
	}
}

// do makes an effect.
func (t *trace) do(e crashfs.Effect) error {
	if err := t.disk.Apply(e); err != nil {
		return fmt.Errorf("the model disagrees with the system: %s: %w", e, err)
	}
	t.out = append(t.out, e)
	return nil
}

// call takes one line: name(arguments) = result.
func (t *trace) call(line string) error {
	open, end := strings.IndexByte(line, '('), strings.LastIndex(line, ") ")
	if open < 0 || end < open {
		return nil // the end of a process, a signal
	}
	name, args := line[:open], split(line[open+1:end])
	result := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line[end+1:]), "="))
	if strings.HasPrefix(result, "-1") || strings.HasPrefix(result, "?") {
		return nil // it changed nothing
	}
	switch name {
	case "openat":
		return t.open(args[2], handle(result))
	case "write", "pwrite64", "writev", "lseek", "ftruncate", "fsync", "fdatasync", "fallocate":
		return t.onFile(name, args, result)
	case "renameat", "renameat2":
		return t.rename(join(args[0], args[1]), join(args[2], args[3]), len(args) > 4 && strings.Contains(args[4], "NOREPLACE"))
	case "linkat":
		return t.names(crashfs.OpLink, join(args[0], args[1]), join(args[2], args[3]))
	case "unlinkat":
		op := crashfs.OpRemove
		if strings.Contains(args[2], "REMOVEDIR") {
			op = crashfs.OpRemoveDir
		}
		return t.names(op, join(args[0], args[1]), "")
	case "bind": // a socket's name; the model has an empty file there
		if path := string(data(args[1])); t.within(path) {
			_, err := t.id(path, true)
			return err
		}
		return nil
	case "mkdirat":
		return t.names(crashfs.OpMkdir, join(args[0], args[1]), "")
	}
	for _, arg := range args {
		if t.within(handle(arg)) || t.within(string(data(arg))) {
			return errors.New("this call is not understood")
		}
	}
	return nil
}

func (t *trace) within(path string) bool {
	return path == t.root || strings.HasPrefix(path, t.root+"/")
}

func (t *trace) open(flags, path string) error {
	writes := strings.Contains(flags, "O_WRONLY") || strings.Contains(flags, "O_RDWR")
	if !t.within(path) || !writes || path == t.told {
		return nil
	}
	id, err := t.id(path, strings.Contains(flags, "O_CREAT"))
	if err != nil {
		return err
	}
	t.at[id] = 0
	if strings.Contains(flags, "O_APPEND") {
		t.at[id] = -1
	}
	if strings.Contains(flags, "O_TRUNC") {
		return t.do(crashfs.Effect{Op: crashfs.OpTruncate, File: id})
	}
	return nil
}

// id is the number of a file, which is made if it is missing and may be.
func (t *trace) id(path string, create bool) (int, error) {
	if id, ok := t.ids[path]; ok {
		return id, nil
	}
	t.last++
	t.ids[path] = t.last
	op := crashfs.OpOpen
	if _, err := t.disk.Stat(path); err != nil && create {
		op = crashfs.OpCreate
	}
	return t.last, t.do(crashfs.Effect{Op: op, Path: path, File: t.last})
}

// onFile takes the calls on an open file or folder.
func (t *trace) onFile(name string, args []string, result string) error {
	path := handle(args[0])
	if path == t.told && strings.HasPrefix(name, "write") {
		return t.do(crashfs.Effect{Op: crashfs.OpNote, Data: data(args[1])})
	}
	if !t.within(path) || strings.HasSuffix(args[0], "(deleted)") {
		return nil
	}
	info, err := t.disk.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if name == "fsync" || name == "fdatasync" {
			return t.do(crashfs.Effect{Op: crashfs.OpSyncDir, Path: path})
		}
		return nil // lseek, to list it again
	}
	id, err := t.id(path, false)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(result, 10, 64)
	if err != nil {
		return err
	}
	switch name {
	case "lseek":
		t.at[id] = number
	case "fsync", "fdatasync":
		return t.do(crashfs.Effect{Op: crashfs.OpSync, File: id})
	case "ftruncate":
		length, err := strconv.ParseInt(args[1], 0, 64)
		if err != nil {
			return err
		}
		return t.do(crashfs.Effect{Op: crashfs.OpTruncate, File: id, Off: length})
	case "fallocate":
		return errors.New("this call is not understood")
	default:
		return t.write(name, id, info.Size(), args, number)
	}
	return nil
}

func (t *trace) write(name string, id int, size int64, args []string, count int64) error {
	off := t.at[id]
	if name == "pwrite64" {
		var err error
		if off, err = strconv.ParseInt(args[3], 0, 64); err != nil {
			return err
		}
	} else if off >= 0 {
		t.at[id] = off + count
	} else {
		off = size // O_APPEND
	}
	b := data(args[1])
	if int64(len(b)) < count {
		return fmt.Errorf("%d bytes were written, the trace has %d", count, len(b))
	}
	return t.do(crashfs.Effect{Op: crashfs.OpWrite, File: id, Off: off, Data: b[:count]})
}

func (t *trace) rename(from, to string, keep bool) error {
	if t.within(from) != t.within(to) {
		return errors.New("a file crosses the border of what is watched")
	}
	id, open := t.ids[from]
	delete(t.ids, from)
	delete(t.ids, to)
	if open {
		t.ids[to] = id
	}
	op := crashfs.OpRename
	if keep {
		op = crashfs.OpPublish
	}
	return t.names(op, from, to)
}

func (t *trace) names(op crashfs.Op, path, to string) error {
	if !t.within(path) {
		return nil
	}
	if op == crashfs.OpRemove {
		delete(t.ids, path)
	}
	return t.do(crashfs.Effect{Op: op, Path: path, To: to})
}

// split cuts arguments at their commas. Strings are all hex, so a quote is a quote.
func split(args string) (out []string) {
	depth, from, quoted := 0, 0, false
	for i := 0; i < len(args); i++ {
		switch c := args[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 0:
			out = append(out, strings.TrimSpace(args[from:i]))
			from = i + 1
		}
	}
	return append(out, strings.TrimSpace(args[from:]))
}

// handle is the path of "5<\x2f...>".
func handle(arg string) string {
	from, to := strings.IndexByte(arg, '<'), strings.LastIndexByte(arg, '>')
	if from < 0 || to < from {
		return ""
	}
	return plain(arg[from+1 : to])
}

// join is the path of a name relative to an open folder.
func join(folder, name string) string {
	path := string(data(name))
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(handle(folder), path)
}

// data is the bytes of all strings in an argument.
func data(arg string) (out []byte) {
	for n, s := range strings.Split(arg, `"`) {
		if n%2 == 1 {
			out = append(out, plain(s)...)
		}
	}
	return out
}

// plain decodes \x2f\x74...; what is not hex stays.
func plain(s string) string {
	if b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, "")); err == nil {
		return string(b)
	}
	return s
}
