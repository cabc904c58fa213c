package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// look takes a sample. A process that goes meanwhile is left out.
func look(root int) sample {
	s := sample{anonymous: map[string]int64{}}
	seen := map[uint64]bool{} // memfds
	for _, pid := range family(root) {
		n, ok := pssAnon(pid)
		if !ok {
			continue
		}
		s.anonymous[name(pid)] = n
		s.shared += memfds(pid, seen)
	}
	return s
}

// family is a process and all below it.
func family(root int) []int {
	all := []int{root}
	for i := 0; i < len(all); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, list := range lists {
			b, _ := os.ReadFile(list)
			for _, f := range bytes.Fields(b) {
				if n, err := strconv.Atoi(string(f)); err == nil {
					all = append(all, n)
				}
			}
		}
	}
	return all
}

// name is the stage that a process runs.
func name(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	for i, a := range args {
		if a == "stage" && i+1 < len(args) {
			return args[i+1] + "/" + strconv.Itoa(pid)
		}
	}
	return "main"
}

func pssAnon(pid int) (int64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss_Anon:")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

// memfds is what the memory files of a process hold that nobody else has shown.
func memfds(pid int, seen map[uint64]bool) (n int64) {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		st, err := os.Stat(fd)
		if err != nil {
			continue
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && !seen[sys.Ino] {
			seen[sys.Ino] = true
			n += sys.Blocks * 512
		}
	}
	return n
}
