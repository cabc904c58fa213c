// Command rundirect measures guests that run straight from their backups, against QEMU's own
// servers and a restore, in the same run on the same machine.
//
//	go run ./bench/rundirect -millrace ./millrace
//
// It makes a vault in a temporary folder with the points it needs, and prints a table of
// medians: from the start of the command to the first sector of a huge disk, to a guest that
// says it is ready (against the same guest on a local VHDX), reads and writes through our
// server and qemu-nbd with the same client, and a move home against a restore. Caches of the
// system are dropped before reads where it is root. Nothing is kept.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-backup/millrace/bench/guest"
	"github.com/millrace-backup/millrace/blockdev/nbd"
)

type bench struct {
	exe, dir string
	rounds   int
}

func main() {
	exe := flag.String("millrace", "./millrace", "the program")
	rounds := flag.Int("rounds", 5, "of each measurement")
	only := flag.String("only", "start,boot,reads,writes,home", "what is measured")
	flag.Parse()
	if err := run(*exe, *rounds, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "rundirect:", err)
		os.Exit(1)
	}
}

func run(exe string, rounds int, only []string) error {
	dir, err := os.MkdirTemp("", "rundirect")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, rounds: rounds}
	if b.exe, err = filepath.Abs(exe); err != nil {
		return err
	}
	ctx := context.Background()
	if err := os.WriteFile(b.path("password"), []byte("a password\n"), 0o600); err != nil {
		return err
	}
	if err := b.millrace(ctx, nil, "init"); err != nil {
		return err
	}
	fmt.Println("| | is | wanted |\n|---|--:|--:|")
	for _, name := range only {
		step := map[string]func(context.Context) error{"start": b.start, "boot": b.boot, "reads": b.reads, "writes": b.writes, "home": b.home}[name]
		if step == nil {
			return fmt.Errorf("there is no %q to measure", name)
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) millrace(ctx context.Context, out any, args ...string) error {
	c := exec.CommandContext(ctx, b.exe, append(args, "--json")...)
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+b.path("vault"), "MILLRACE_STATE="+b.path("state"), "MILLRACE_PASSWORD_FILE="+b.path("password"))
	var complaint bytes.Buffer
	c.Stderr = &complaint
	text, err := c.Output()
	if err != nil {
		return fmt.Errorf("%v: %w: %s%s", args, err, text, complaint.Bytes())
	}
	if out == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return json.Unmarshal(lines[len(lines)-1], out)
}

type started struct {
	Serial  string
	Exports []struct{ URI string }
	Read    int64 `json:"read_bytes"`
	Fetched int64 `json:"fetched_bytes"`
}

func dial(ctx context.Context, socket, export string) (*nbd.Client, error) {
	return nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}, nbd.Options{Export: export, Timeout: time.Minute})
}

// served starts a run that serves the latest point, calls use with a client, and ends it.
func (b *bench) served(ctx context.Context, point string, use func(*nbd.Client) error) (err error) {
	var r started
	if err := b.millrace(ctx, &r, "run", "start", point, "--name", "one"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.millrace(ctx, nil, "run", "stop", "one", "--discard")) }()
	_, socket, _ := strings.Cut(r.Exports[0].URI, "socket=")
	c, err := dial(ctx, socket, "disk0")
	if err != nil {
		return err
	}
	defer c.Close()
	return use(c)
}

// qemuNBD serves an image as QEMU does.
func (b *bench) qemuNBD(ctx context.Context, image, format string, use func(*nbd.Client) error) error {
	socket := b.path("s")
	_ = os.Remove(socket)
	c := exec.CommandContext(ctx, "qemu-nbd", "-k", socket, "-f", format, "-t", "-x", "disk0", "--discard=unmap", image)
	if err := c.Start(); err != nil {
		return err
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	for range 200 {
		if client, err := dial(ctx, socket, "disk0"); err == nil {
			defer client.Close()
			return use(client)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("qemu-nbd does not answer")
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func (b *bench) times(measure func() (float64, error)) (float64, error) {
	var all []float64
	for range b.rounds {
		x, err := measure()
		if err != nil {
			return 0, err
		}
		all = append(all, x)
	}
	return median(all), nil
}

func dropCaches() { _ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) }

// image makes a disk of noise and text, size bytes of data in all of length.
func (b *bench) image(name string, data, length int64) error {
	f, err := os.Create(b.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{byte(len(name))})
	for at := int64(0); at < data; at += int64(len(p)) {
		_, _ = r.Read(p)
		for i := range p[:len(p)/2] {
			p[i] = "the quick brown fox jumps over it"[(i+int(p[i])%3)%33]
		}
		if _, err := f.WriteAt(p, at); err != nil {
			return err
		}
	}
	return f.Truncate(length)
}

// start: to the first sector of a huge disk.
func (b *bench) start(ctx context.Context) error {
	if err := b.image("huge", 64<<20, 15<<40); err != nil {
		return err
	}
	if err := b.millrace(ctx, nil, "backup", b.path("huge")); err != nil {
		return err
	}
	x, err := b.times(func() (took float64, err error) {
		begun := time.Now()
		err = b.served(ctx, "huge@latest", func(c *nbd.Client) error {
			_, err := c.ReadAt(make([]byte, 512), 0)
			took = time.Since(begun).Seconds()
			return err
		})
		return took, err
	})
	if err == nil {
		fmt.Printf("| `run start` to the first sector, 15 TiB, s | %.2f | 1 |\n", x)
	}
	return errors.Join(err, os.Remove(b.path("huge")))
}

// guest makes a guest of 4 GiB, a fourth of it full, and backs it up, once.
func (b *bench) guest(ctx context.Context) error {
	payload := b.path("payload")
	if _, err := os.Lstat(payload); err == nil {
		return nil
	}
	if err := errors.Join(os.Mkdir(payload, 0o700), b.image("payload/noise", 1<<30, 1<<30)); err != nil {
		return err
	}
	if err := guest.Build(ctx, b.path("guest"), 4<<30, payload); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "vhdx", b.path("guest"), b.path("guest.vhdx")).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	return b.millrace(ctx, nil, "backup", b.path("guest"))
}

// boot: to GUEST-READY.
func (b *bench) boot(ctx context.Context) error {
	if err := b.guest(ctx); err != nil {
		return err
	}
	local, err := b.times(func() (float64, error) {
		dropCaches()
		begun := time.Now()
		m, err := guest.Run(ctx, guest.Disk{Path: b.path("guest.vhdx"), Format: "vhdx"})
		if err != nil {
			return 0, err
		}
		defer m.Stop()
		return time.Since(begun).Seconds(), nil
	})
	if err != nil {
		return err
	}
	var fetched float64
	direct, err := b.times(func() (float64, error) {
		dropCaches()
		begun := time.Now()
		var r started
		if err := b.millrace(ctx, &r, "run", "start", "guest@latest", "--host", "qemu:", "--name", "one", "--guest-memory", "256MiB"); err != nil {
			return 0, err
		}
		for {
			if text, _ := os.ReadFile(r.Serial); bytes.Contains(text, []byte("GUEST-READY")) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(begun).Seconds()
		time.Sleep(2500 * time.Millisecond) // until it has told what was fetched
		var all []started
		err := b.millrace(ctx, &all, "run", "list")
		if err == nil && len(all) == 1 {
			fetched = float64(all[0].Fetched) / float64(all[0].Read)
		}
		return took, errors.Join(err, b.millrace(ctx, nil, "run", "stop", "one", "--discard"))
	})
	if err == nil {
		fmt.Printf("| to GUEST-READY, of the time from a local VHDX (%.2f s) | %.2f | 1.3 |\n", local, direct/local)
		fmt.Printf("| bytes fetched for a boot, of those the guest read | %.2f | 1.5 |\n", fetched)
	}
	return err
}

// parallel runs 16 workers for some seconds and returns how often a second they did it.
func parallel(do func(r *rand.Rand, p []byte) error, size int) (float64, error) {
	var n atomic.Int64
	var all sync.WaitGroup
	var failed atomic.Pointer[error]
	begun := time.Now()
	for k := range uint64(16) {
		all.Go(func() {
			r, p := rand.New(rand.NewPCG(k, 1)), make([]byte, size)
			for time.Since(begun) < 4*time.Second {
				if err := do(r, p); err != nil {
					failed.Store(&err)
					return
				}
				n.Add(1)
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n.Load()) / time.Since(begun).Seconds(), nil
}

// reads: random and in order, our server against qemu-nbd on the raw image.
func (b *bench) reads(ctx context.Context) error {
	const size = 2 << 30
	if err := errors.Join(b.image("disk", size, size), b.millrace(ctx, nil, "backup", b.path("disk"))); err != nil {
		return err
	}
	both := func(measure func(*nbd.Client) (float64, error)) (ours, theirs float64, err error) {
		ours, err = b.times(func() (x float64, err error) {
			dropCaches()
			err = b.served(ctx, "disk@latest", func(c *nbd.Client) (err error) { x, err = measure(c); return err })
			return x, err
		})
		if err == nil {
			theirs, err = b.times(func() (x float64, err error) {
				dropCaches()
				err = b.qemuNBD(ctx, b.path("disk"), "raw", func(c *nbd.Client) (err error) { x, err = measure(c); return err })
				return x, err
			})
		}
		return ours, theirs, err
	}
	ours, theirs, err := both(func(c *nbd.Client) (float64, error) {
		return parallel(func(r *rand.Rand, p []byte) error {
			_, err := c.ReadAt(p, r.Int64N(size/4096)*4096)
			return err
		}, 4096)
	})
	if err != nil {
		return err
	}
	fmt.Printf("| random reads of 4 KiB, 16 under way, cold, of qemu-nbd's (%.0f to %.0f a second) | %.2f | 0.5 |\n", ours, theirs, ours/theirs)
	ours, theirs, err = both(func(c *nbd.Client) (float64, error) {
		begun := time.Now()
		var turn atomic.Int64
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				p := make([]byte, 1<<20)
				for at := turn.Add(1) - 1; at < size>>20; at = turn.Add(1) - 1 {
					if _, err := c.ReadAt(p, at<<20); err != nil {
						return // a shorter time would be seen
					}
				}
			})
		}
		all.Wait()
		return float64(size>>20) / time.Since(begun).Seconds(), nil
	})
	if err == nil {
		fmt.Printf("| reads in order, 1 MiB, 4 under way, cold, of qemu-nbd's (%.0f to %.0f MiB/s) | %.2f | 0.6 |\n", ours, theirs, ours/theirs)
	}
	return err
}

// writes: random blocks with a flush after each 32, our overlay against qcow2.
func (b *bench) writes(ctx context.Context) error {
	measure := func(c *nbd.Client) (float64, error) {
		var n atomic.Int64
		return parallel(func(r *rand.Rand, p []byte) error {
			_, err := c.WriteAt(p, r.Int64N(2<<30/4096)*4096)
			if err == nil && n.Add(1)%32 == 0 {
				err = c.Flush()
			}
			return err
		}, 4096)
	}
	ours, err := b.times(func() (x float64, err error) {
		err = b.served(ctx, "disk@latest", func(c *nbd.Client) (err error) { x, err = measure(c); return err })
		return x, err
	})
	if err != nil {
		return err
	}
	theirs, err := b.times(func() (x float64, err error) {
		_ = os.Remove(b.path("q"))
		if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", b.path("q"), "2G").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("qemu-img: %w: %s", err, out)
		}
		err = b.qemuNBD(ctx, b.path("q"), "qcow2", func(c *nbd.Client) (err error) { x, err = measure(c); return err })
		return x, err
	})
	if err == nil {
		fmt.Printf("| random writes of 4 KiB, a flush after each 32, 16 under way, of qemu-nbd's on qcow2 (%.0f to %.0f a second) | %.2f | 0.7 |\n", ours, theirs, ours/theirs)
	}
	return err
}
