package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/id"
)

// What the chunk index is held to.
const (
	tables    = 1000 // that the chunks come from
	lookUps   = 100_000
	maxGrowth = 64 << 20
	maxFiles  = 900 << 20
	maxP99    = 50 * time.Microsecond
)

// chunkN is the n-th chunk; ids are spread evenly, as keyed hashes are.
func chunkN(n int) id.Chunk {
	return id.Chunk(sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(n))))
}

// asked is what a process found out.
type asked struct {
	Before, After int64 // its anonymous memory, in bytes
	Hit, Miss     [2]time.Duration
}

// measureIndex makes a chunk index of so many chunks out of many tables, and has
// processes look up in it, as many at once as there are processors.
func measureIndex(ctx context.Context, folder string, chunks, processes int) error {
	index := filepath.Join(folder, "chunks")
	began, idle := time.Now(), anonymous()
	stop, peak := make(chan bool), make(chan int64)
	go func() {
		most := int64(0)
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(50 * time.Millisecond):
				most = max(most, anonymous())
			}
		}
	}()
	var sources []chunkindex.Source
	steps := []int{tables / 2, tables / 4, tables / 8, tables - 1, tables} // as a vault grows
	slices.Sort(steps)
	for n := range tables {
		sources = append(sources, synthetic(n, chunks))
		if slices.Contains(steps, n+1) {
			if _, err := chunkindex.Refresh(ctx, index, sources); err != nil {
				return err
			}
		}
	}
	stop <- true
	grown := <-peak - idle
	bytes, files := sizeOf(index)
	fmt.Printf("%d chunks of %d tables in %.1f s: %d files, %d MiB; %d MiB of memory more while it was made\n",
		chunks, tables, time.Since(began).Seconds(), files, bytes>>20, grown>>20)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	outs := make([]asked, processes)
	errs := make(chan error, processes)
	processors := make(chan bool, runtime.NumCPU()) // more at once would measure how they wait for each other
	for i := range processes {
		go func() {
			processors <- true
			defer func() { <-processors }()
			out, err := exec.CommandContext(ctx, self, "-ask", index, "-chunks", strconv.Itoa(chunks)).Output()
			if err == nil {
				err = json.Unmarshal(out, &outs[i])
			}
			errs <- err
		}()
	}
	for range processes {
		if err := <-errs; err != nil {
			return fmt.Errorf("look up: %w", err)
		}
	}
	var more int64
	var worst time.Duration
	for _, o := range outs {
		more += max(0, o.After-o.Before)
		worst = max(worst, o.Hit[1], o.Miss[1])
		fmt.Printf("  a process: %d KiB more; known p50 %v, p99 %v; unknown p50 %v, p99 %v\n", (o.After-o.Before)>>10, o.Hit[0], o.Hit[1], o.Miss[0], o.Miss[1])
	}
	fmt.Printf("%d processes: %d KiB more in all, p99 at most %v\n", processes, more>>10, worst)
	if more > maxGrowth || grown > maxGrowth || bytes > maxFiles || worst > maxP99 {
		return errors.New("beyond a limit")
	}
	return nil
}

func synthetic(n, chunks int) chunkindex.Source {
	return chunkindex.Source{Name: id.Object(chunkN(-n - 1)), Rows: func(context.Context) iter.Seq2[chunkindex.Row, error] {
		return func(yield func(chunkindex.Row, error) bool) {
			for k := n * chunks / tables; k < (n+1)*chunks/tables; k++ {
				p := chunkindex.Place{Job: id.Job{byte(n), byte(n >> 8)}, Pack: id.Object(chunkN(-tables - k/500)), Offset: uint32(k % 500 << 16), Stored: 40000, Raw: 65536}
				if !yield(chunkindex.Row{Chunk: chunkN(k), Place: p}, nil) {
					return
				}
			}
		}
	}}
}

func sizeOf(folder string) (bytes int64, files int) {
	_ = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if st, err := d.Info(); err == nil {
				bytes, files = bytes+st.Size(), files+1
			}
		}
		return nil
	})
	return bytes, files
}

// anonymous is this process's own.
func anonymous() int64 { return look(os.Getpid()).anonymous["main"] }

// ask looks chunks up, half of which are there, and prints what it took.
func ask(folder string, chunks int) error {
	debug.FreeOSMemory()
	out := asked{Before: anonymous()}
	x, err := chunkindex.OpenFolders(folder)
	if err != nil {
		return err
	}
	defer x.Close()
	rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	var hits, misses []time.Duration
	for i := range 2 * lookUps {
		n, there := rnd.IntN(chunks), i%2 == 0
		if !there {
			n += chunks
		}
		c := chunkN(n)
		began := time.Now()
		_, ok := x.Find(c)
		took := time.Since(began)
		if ok != there {
			return fmt.Errorf("chunk %d: found %v", n, ok)
		}
		if there {
			hits = append(hits, took)
		} else {
			misses = append(misses, took)
		}
	}
	slices.Sort(hits)
	slices.Sort(misses)
	out.Hit, out.Miss = [2]time.Duration{hits[lookUps/2], hits[lookUps*99/100]}, [2]time.Duration{misses[lookUps/2], misses[lookUps*99/100]}
	hits, misses = nil, nil
	debug.FreeOSMemory()
	out.After = anonymous()
	return json.NewEncoder(os.Stdout).Encode(out)
}
