package gauge

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine adds what the system tells of itself.
func machine(m *Machine, dir string) {
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(text), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		m.Processor = strings.TrimLeft(line, "\t: ")
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram * uint64(info.Unit))
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(text)); len(f) > 0 {
			m.Load, _ = strconv.ParseFloat(f[0], 64)
		}
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		kinds := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext2/ext3/ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs"}
		if m.FileSystem = kinds[int64(fs.Type)]; m.FileSystem == "" {
			m.FileSystem = fmt.Sprintf("%#x", fs.Type)
		}
	}
}

// spent is the processor time of this process, and of the children it waited for.
func spent() (own, children time.Duration) {
	of := func(who int) time.Duration {
		var u unix.Rusage
		if unix.Getrusage(who, &u) != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return of(unix.RUSAGE_SELF), of(unix.RUSAGE_CHILDREN)
}

// DiskUsage is what du says of a file or folder, in bytes; 0 for one that is not
// there yet.
func DiskUsage(path string) (total int64, err error) {
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
