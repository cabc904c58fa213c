package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/bench/workload"
)

// series is a full backup of a running guest, and increments after it.
type series struct {
	Name        string `json:"name"`
	Content     string `json:"content"` // noise, files
	Format      string `json:"format"`
	Codec       string `json:"codec"`
	Granularity int64  `json:"granularity"`
	Then        int64  `json:"granularity_later,omitempty"` // of bitmaps that increments begin; 0: as the full backup
	Size        int64  `json:"disk_bytes"`
	Data        int64  `json:"data_bytes"`
	Full        job    `json:"full"`
	Increments  []job  `json:"increments"`

	count  int
	verify bool // of each point, not only of the last
}

// run makes the disk and the backups.
func (s *series) run(ctx context.Context, b *bench) (err error) {
	image := ""
	if s.Content == "files" {
		if image, err = b.files(ctx); err != nil {
			return err
		}
	}
	from, data, err := source(image, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	if data > 0 {
		s.Data = data
	}
	d, err := create(ctx, b.folder, "a", s.Format, s.Size)
	if err != nil {
		return err
	}
	defer os.Remove(d.path)
	m, err := start(ctx, []disk{d}, "-m", "32")
	if err != nil {
		return err
	}
	defer m.stop()
	c := content{s.Size, s.Data}
	b.say("%s: %d MiB of data", s.Name, s.Data>>20)
	if err := m.write(ctx, d, func(w *writer) error { return c.fill(w, from) }); err != nil {
		return err
	}
	p, err := b.place(ctx, "job")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.folder)) }()
	flags := func(granularity int64) []string {
		return append([]string{"--codec", s.Codec, "--bitmap-granularity", fmt.Sprint(granularity)}, b.flags...)
	}
	later := flags(cmp.Or(s.Then, s.Granularity))
	if later, err = b.profiled(s.Name, later...); err != nil {
		return err
	}
	if s.Full, err = p.backup(ctx, m, flags(s.Granularity)...); err != nil {
		return err
	}
	b.say("%s: full %.2f s, %.2f CPU-s, QEMU's %.2f", s.Name, s.Full.Seconds, s.Full.CPU, s.Full.QEMU)
	for n := range s.count {
		var changed int64
		err := m.write(ctx, d, func(w *writer) error {
			changed = c.scatter(w, 0.01, byte(n+1))
			return nil
		})
		if err != nil {
			return err
		}
		j, err := p.backup(ctx, m, later...)
		if err != nil {
			return err
		}
		if j.Mode != "incremental" {
			return fmt.Errorf("increment %d is none: %s", n+1, j.Why)
		}
		j.Changed = changed
		s.Increments = append(s.Increments, j)
		b.say("%s: increment %d: %.2f s, %.2f CPU-s, QEMU's %.2f, changed %d, dirty %d, read %d, stored %d", s.Name, n+1, j.Seconds, j.CPU, j.QEMU, j.Changed, j.Dirty, j.Read, j.Grown)
		if s.verify || n == s.count-1 {
			if err := p.verify(ctx, m, d, j.Point); err != nil {
				return err
			}
		}
	}
	return nil
}

// verify restores a point of a machine with one disk, which has not changed since, and
// compares.
func (p place) verify(ctx context.Context, m *machine, d disk, point string) error {
	to := filepath.Join(p.folder, "restored.raw")
	defer os.Remove(to)
	if _, _, err := p.run(ctx, "restore", point, "--quiet", "--to", to); err != nil {
		return err
	}
	if err := m.io(ctx, d.name, "flush"); err != nil { // what is compared is the file
		return err
	}
	said, err := exec.CommandContext(ctx, "qemu-img", "compare", "-U", "-f", d.format, "-F", "raw", d.path, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("point %s comes back as something else: %w: %s", point, err, strings.TrimSpace(string(said)))
	}
	return nil
}

// files is an image of real files.
func (b *bench) files(ctx context.Context) (string, error) {
	path := filepath.Join(b.folder, "files.raw")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	c, err := workload.Tree(ctx, path, b.tree, b.data)
	// A hundredth of a disk that is mostly free is more than a hundredth of its files.
	if full := c.Bytes / 4 * 5 / region * region; err == nil && full >= region && full < b.data/10*9 {
		if err = os.Remove(path); err == nil {
			_, err = workload.Tree(ctx, path, b.tree, full)
		}
	}
	return path, err
}

// profiled adds a flag so that processes leave profiles, if they are to.
func (b *bench) profiled(name string, flags ...string) ([]string, error) {
	if b.profile == "" {
		return flags, nil
	}
	folder := filepath.Join(b.profile, strings.ReplaceAll(name, " ", "-"))
	return append(flags, "--profile", folder), os.MkdirAll(folder, 0o755)
}

// What is to be reached.
const (
	mostTime   = 0.08 // of a full backup
	mostRead   = 1.1  // of what is reported as changed
	mostStored = 1.4  // of what has changed
)

// judge holds several series of the same content against the figures to reach. The
// time of a full backup is the median of theirs.
func judge(all []*series) (out []gauge.Check) {
	full := map[string][]float64{}
	for _, s := range all {
		full[s.Content] = append(full[s.Content], s.Full.Seconds)
	}
	for _, s := range all {
		if len(s.Increments) == 0 {
			continue
		}
		whole := gauge.Of(full[s.Content]...).Median
		out = append(out,
			gauge.Check{Name: s.Name + ": time, of a full backup's", Limit: mostTime, Value: gauge.Over(s.Increments, func(j job) float64 { return j.Seconds / whole })},
			worst(s.Name+": bytes read, of those reported as changed", mostRead, gauge.Over(s.Increments, job.read)))
		if s.Codec == "none" {
			out = append(out, worst(s.Name+": bytes stored, of those changed", mostStored, gauge.Over(s.Increments, job.stored)))
		}
	}
	return out
}

func (j job) read() float64   { return float64(j.Read) / float64(j.Dirty) }
func (j job) stored() float64 { return float64(j.Grown) / float64(j.Changed) }

// worst is a line that each of the figures has to reach, not their median.
func worst(name string, limit float64, s gauge.Spread) gauge.Check {
	s.Median = s.Most
	return gauge.Check{Name: name + " (the worst)", Value: s, Limit: limit}
}
