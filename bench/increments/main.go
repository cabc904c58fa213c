// Command increments makes many backups of a disk that is written to a little between
// them, and prints what each stores and what each costs to restore.
//
// The image holds one file system with real files. Between two backups a share of all
// its 4 KiB blocks (one in a hundred) is overwritten with noise, scattered, from a
// fixed seed. Noise does not compress, so that what the vault grows by is what
// is stored before compression, and more than that by all that sealing adds: packs
// with their footers, tables, ledger and checkpoints are all in it. Every point
// is restored at the end and its SHA-256 compared with that of the image at the time.
// Points 0 (the full backup), 1 (the first increment) and the last are then restored
// several times in turn, and the medians of time and CPU time compared: what small
// changes cost whoever restores.
//
// It fails if an increment stores more than 1.4 times what was changed, if a disk of
// a point is made of more than 8 extent tables, if a point does not come back,
// or if restoring the last one takes more than 1.5 times the time or the CPU time of
// point 1. Time means something on a quiet machine only.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

const (
	mostStored  = 1.4
	mostRestore = 1.5
	mostTables  = 8
)

// options of a run.
type options struct {
	millrace string
	size     int64
	folder   string
	dir      string
	points   int
	ratio    float64
	rounds   int
}

func main() {
	var o options
	mib := flag.Int64("size", 320, "size of the image in MiB; four fifths are filled")
	flag.StringVar(&o.millrace, "millrace", "millrace", "the program to measure")
	flag.StringVar(&o.folder, "folder", "/usr", "folder whose files fill the image")
	flag.StringVar(&o.dir, "dir", "", "work folder with room for five times the image (default: a temporary one)")
	flag.IntVar(&o.points, "n", 30, "how many increments")
	flag.Float64Var(&o.ratio, "changed", 0.01, "share of blocks changed before each")
	flag.IntVar(&o.rounds, "rounds", 5, "how often the first and the last point are restored for the figures")
	flag.Parse()
	o.size = *mib << 20
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "increments:", err)
		os.Exit(1)
	}
}

// rig is the program with a vault of its own.
type rig struct {
	program, base, image string
	points               []point
}

// point is a backup as it was made.
type point struct {
	id  string
	sum [sha256.Size]byte // of the image at the time
}

// cost is what a run of the program took.
type cost struct{ wall, cpu time.Duration }

func measure(ctx context.Context, o options) (err error) {
	program, err := exec.LookPath(o.millrace)
	if err != nil {
		return err
	}
	if program, err = filepath.Abs(program); err != nil {
		return err
	}
	base, err := os.MkdirTemp(o.dir, "millrace-increments-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	r := &rig{program: program, base: base, image: filepath.Join(base, "image.raw")}
	if _, err := workload.Tree(ctx, r.image, o.folder, o.size); err != nil {
		return err
	}
	if _, _, err := r.run(ctx, "init", "--quiet"); err != nil {
		return err
	}
	return errors.Join(r.backups(ctx, o), r.restores(ctx, o))
}

// backups makes the points and prints a line for each.
func (r *rig) backups(ctx context.Context, o options) error {
	fmt.Println("point  changed bytes      new bytes  vault grew by  ratio   wall s    CPU s")
	var failed error
	for n := range o.points + 1 {
		changed := int64(0)
		if n > 0 {
			var err error
			if changed, err = workload.Scatter(r.image, o.ratio, uint64(n)); err != nil {
				return err
			}
			changed *= 4096
		}
		before, err := size(filepath.Join(r.base, "vault"))
		if err != nil {
			return err
		}
		out, took, err := r.run(ctx, "backup", "--json", r.image)
		if err != nil {
			return err
		}
		var s summary
		if err := s.parse(out); err != nil {
			return err
		}
		after, err := size(filepath.Join(r.base, "vault"))
		if err != nil {
			return err
		}
		sum, err := sumOf(r.image)
		if err != nil {
			return err
		}
		r.points = append(r.points, point{s.Points[0], sum})
		ratio := float64(after-before) / float64(max(changed, 1))
		if n == 0 {
			ratio = 0
		}
		fmt.Printf("%5d %14d %14d %14d %6.3f %8.2f %8.2f\n", n, changed, s.New, after-before, ratio, took.wall.Seconds(), took.cpu.Seconds())
		if ratio > mostStored {
			failed = errors.Join(failed, fmt.Errorf("increment %d stored %.3f times what was changed", n, ratio))
		}
	}
	return failed
}

// restores compares all points with what they were made of, and the costs of the
// first and the last.
func (r *rig) restores(ctx context.Context, o options) error {
	if len(r.points) == 0 {
		return nil
	}
	for n := range r.points {
		if err := r.tables(ctx, n); err != nil {
			return err
		}
		if _, err := r.restore(ctx, n); err != nil {
			return err
		}
	}
	last := len(r.points) - 1
	fmt.Printf("all %d points are restored equal\n", len(r.points))
	took := map[int][]cost{}
	base := min(1, last)
	for range o.rounds {
		for _, n := range slices.Compact([]int{0, base, last}) {
			c, err := r.restore(ctx, n)
			if err != nil {
				return err
			}
			took[n] = append(took[n], c)
		}
	}
	for _, n := range slices.Compact([]int{0, base, last}) {
		c := median(took[n])
		fmt.Printf("restore of point %d: %.2f s, %.2f CPU-s (medians of %d)\n", n, c.wall.Seconds(), c.cpu.Seconds(), o.rounds)
	}
	first, final := median(took[base]), median(took[last])
	wall, cpu := final.wall.Seconds()/first.wall.Seconds(), final.cpu.Seconds()/first.cpu.Seconds()
	fmt.Printf("point %d to point %d: time %.2f, CPU %.2f\n", last, base, wall, cpu)
	if max(wall, cpu) > mostRestore {
		return fmt.Errorf("restoring point %d takes %.2f times the time and %.2f times the CPU time of point %d", last, wall, cpu, base)
	}
	return nil
}

// restore restores a point, compares it and removes it.
func (r *rig) restore(ctx context.Context, n int) (cost, error) {
	to := filepath.Join(r.base, "restored.raw")
	_, took, err := r.run(ctx, "restore", r.points[n].id, "--quiet", "--to", to)
	if err != nil {
		return cost{}, err
	}
	sum, err := sumOf(to)
	if err == nil && sum != r.points[n].sum {
		err = fmt.Errorf("point %d comes back as something else", n)
	}
	return took, errors.Join(err, os.Remove(to))
}

// tables fails if a disk of a point is made of too many.
func (r *rig) tables(ctx context.Context, n int) error {
	out, _, err := r.run(ctx, "show", r.points[n].id, "--json")
	if err != nil {
		return err
	}
	var p struct{ Disks []struct{ Layers int } }
	if err := json.Unmarshal(out, &p); err != nil || len(p.Disks) == 0 {
		return errors.Join(fmt.Errorf("read what point %d is: %s", n, out), err)
	}
	for _, d := range p.Disks {
		if d.Layers < 1 || d.Layers > mostTables {
			return fmt.Errorf("point %d is made of %d tables", n, d.Layers)
		}
	}
	return nil
}

// run runs the program to its end.
func (r *rig) run(ctx context.Context, args ...string) ([]byte, cost, error) {
	c := exec.CommandContext(ctx, r.program, args...)
	at := func(name string) string { return filepath.Join(r.base, name) }
	c.Env = append(os.Environ(), "MILLRACE_VAULT="+at("vault"), "MILLRACE_STATE="+at("state"), "MILLRACE_PASSWORD_COMMAND=echo measured, not kept")
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	start := time.Now()
	if err := c.Run(); err != nil {
		return nil, cost{}, fmt.Errorf("millrace %s: %w: %s%s", args[0], err, out.Bytes(), complaint.Bytes())
	}
	return out.Bytes(), cost{time.Since(start), c.ProcessState.UserTime() + c.ProcessState.SystemTime()}, nil
}

// summary is what is used of a backup's last line.
type summary struct {
	Type   string   `json:"type"`
	Points []string `json:"points"`
	New    int64    `json:"new_bytes"`
}

func (s *summary) parse(out []byte) error {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], s); err != nil {
		return fmt.Errorf("read the summary of a backup: %w", err)
	}
	if s.Type != "summary" || len(s.Points) != 1 {
		return fmt.Errorf("read the summary of a backup: it is %s", lines[len(lines)-1])
	}
	return nil
}

func median(c []cost) cost {
	wall, cpu := make([]time.Duration, len(c)), make([]time.Duration, len(c))
	for i := range c {
		wall[i], cpu[i] = c[i].wall, c[i].cpu
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	return cost{wall[len(wall)/2], cpu[len(cpu)/2]}
}

// size is how many bytes the files below path have.
func size(path string) (total int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

func sumOf(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
