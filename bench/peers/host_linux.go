package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine says what the figures depend on.
func machine(ctx context.Context, dir string) map[string]string {
	m := map[string]string{"processors": strconv.Itoa(runtime.NumCPU()), "go": runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(text), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		m["processor"] = strings.TrimLeft(line, "\t: ")
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m["memory"] = fmt.Sprintf("%d MiB", info.Totalram*uint64(info.Unit)>>20)
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m["kernel"] = unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m["load at the start"] = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	for what, command := range map[string][]string{
		"file system": {"stat", "-f", "-c", "%T", dir}, "restic": {"restic", "version"}, "borg": {"borg", "--version"},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output(); err == nil {
			m[what] = strings.TrimSpace(string(out))
		}
	}
	return m
}

// diskUsage is what du says of a file or folder, in bytes; 0 for one that is not
// there yet.
func diskUsage(path string) (total int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

// flushAll has all dirty pages written.
func flushAll() { unix.Sync() }

// largestRSS is the most that the process, or any it waited for, had resident.
func largestRSS(p *os.ProcessState) int64 {
	if u, ok := p.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss << 10
	}
	return 0
}

// watchMemory looks at a process and its descendants until the returned function
// is called, which says how much they had together at most. A page that several
// share is counted once.
func watchMemory(pid int) func() int64 {
	stop, result := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		var most int64
		for {
			select {
			case <-stop:
				result <- most
				return
			case <-tick.C:
				most = max(most, proportional(pid))
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-result
	}
}

// proportional adds up the proportional set sizes of a process tree. Who has
// ended meanwhile counts nothing.
func proportional(pid int) (total int64) {
	proc := fmt.Sprintf("/proc/%d", pid)
	if text, err := os.ReadFile(proc + "/smaps_rollup"); err == nil {
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "Pss:" {
				n, _ := strconv.ParseInt(f[1], 10, 64)
				total = n << 10
			}
		}
	}
	lists, _ := filepath.Glob(proc + "/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				total += proportional(n)
			}
		}
	}
	return total
}
