package nbd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// ticks is how much processor time a process has had.
func ticks(b *testing.B, p *os.Process) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var sum time.Duration
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}

func ours(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSequential reads a file of 1 GiB from front to back: the file itself, and served
// by qemu-nbd, with pieces of 1 MiB and some of them under way.
func BenchmarkSequential(b *testing.B) {
	const size, piece = 1 << 30, 1 << 20
	path := filepath.Join(b.TempDir(), "disk.raw")
	p := make([]byte, piece)
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < size; off += piece {
		for i := range p {
			p[i] = byte(i>>3 + int(off>>20))
		}
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
	dial, server := startProcess(b, "qemu-nbd", "-k", "%s", "-r", "-f", "raw", "-e", "4", "-t", path)
	c := dialTest(b, dial, Options{Contexts: []string{Allocation}})
	for _, from := range []struct {
		name string
		r    io.ReaderAt
	}{{"file", f}, {"nbd", c}} {
		for _, under := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/%d", from.name, under), func(b *testing.B) {
				b.SetBytes(size)
				b.ReportAllocs()
				we, they := ours(b), ticks(b, server)
				for b.Loop() {
					var next atomic.Int64
					var all sync.WaitGroup
					for range under {
						all.Go(func() {
							p := make([]byte, piece)
							for {
								off := next.Add(piece) - piece
								if off >= size {
									return
								}
								if _, err := from.r.ReadAt(p, off); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					all.Wait()
				}
				b.ReportMetric((ours(b)-we).Seconds()/float64(b.N), "our-cpu-s/GiB")
				b.ReportMetric((ticks(b, server)-they).Seconds()/float64(b.N), "server-cpu-s/GiB")
			})
		}
	}
}
