// Command writer runs in the guest of bench/running: it writes 4 KiB at random places of
// a disk, past the guest's page cache, from several goroutines, and prints each second how
// many writes were done, as "IOPS N". No two blocks it writes are alike.
//
// It is built without cgo, so that it runs in a guest that has nothing but a kernel. What
// it writes to is destroyed; it does not end by itself.
package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"
)

const (
	block   = 4 << 10
	writers = 4
)

func main() {
	if err := write(os.Args[1]); err != nil {
		fmt.Println("writer:", err)
	}
}

func write(path string) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	var done atomic.Int64
	buffers, err := aligned(writers)
	if err != nil {
		return err
	}
	end := make(chan error)
	for n := range writers {
		go func() {
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			b := buffers[n*block : (n+1)*block]
			for {
				binary.LittleEndian.PutUint64(b, rng.Uint64()) // no two are alike
				if _, err := f.WriteAt(b, rng.Int64N(size/block)*block); err != nil {
					end <- err
					return
				}
				done.Add(1)
			}
		}()
	}
	began, last := time.Now(), int64(0)
	for tick := time.NewTicker(time.Second); ; {
		select {
		case err := <-end:
			return err
		case <-tick.C:
			now := done.Load()
			fmt.Printf("IOPS %.0f\n", float64(now-last)/time.Since(began).Seconds())
			began, last = time.Now(), now
		}
	}
}
