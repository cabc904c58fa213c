package cutters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

const cell = 4 << 20

// Outcome is how a cutter did.
type Outcome struct {
	Name    string       `json:"name"`
	Chunks  int64        `json:"chunks"`        // cut, twins included
	Data    int64        `json:"data_bytes"`    // in them
	Kept    int64        `json:"kept_bytes"`    // of different ones
	OfMost  float64      `json:"share_of_most"` // of what single blocks find again, found
	MiBs    gauge.Spread `json:"mib_per_cpu_s"` // 0: not cut, but blocks as they are
	PerDisk []int64      `json:"kept_per_disk"` // what each disk added
}

// Result is all that was found out.
type Result struct {
	Machine  gauge.Machine `json:"machine"`
	Images   []string      `json:"images"`
	Outcomes []Outcome     `json:"outcomes"`
}

const single = "single blocks"

// Names are the cutters, and blocks by themselves.
func names() []string { return []string{chunk.Aligned, chunk.FastCDC, chunk.Fixed, single} }

// Measure cuts all images with each cutter. The bytes are cut runs times for speed.
func Measure(ctx context.Context, images []string, runs int, say func(string, ...any)) (*Result, error) {
	r := &Result{Machine: gauge.Here(filepath.Dir(images[0]))}
	for _, i := range images {
		r.Images = append(r.Images, filepath.Base(i))
	}
	var most int64
	for _, name := range names() {
		o, err := measure(ctx, name, images, runs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		say("%-16s %d chunks, %d of %d MiB kept", name, o.Chunks, o.Kept>>20, o.Data>>20)
		if name == single {
			most = o.Data - o.Kept
		}
		r.Outcomes = append(r.Outcomes, o)
	}
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		o.OfMost = float64(o.Data-o.Kept) / float64(max(most, 1))
	}
	return r, nil
}

// saw cuts with one cutter and remembers what it has seen.
type saw struct {
	cutter chunk.Cutter // nil: blocks
	block  int
	ids    *chunk.IDs
	seen   map[[16]byte]bool
	runs   int
	took   []time.Duration
	cut    int64 // bytes, once
	pieces []chunk.Piece
	out    Outcome
}

func measure(ctx context.Context, name string, images []string, runs int) (Outcome, error) {
	p := chunk.Default()
	s := &saw{block: int(p.Block), ids: chunk.NewIDs([32]byte{1}), seen: map[[16]byte]bool{}, runs: runs, took: make([]time.Duration, runs), out: Outcome{Name: name}}
	if name != single {
		var err error
		p.Name = name
		if s.cutter, err = chunk.New(p, [32]byte{2}); err != nil {
			return s.out, err
		}
	}
	for _, path := range images {
		before := s.out.Kept
		if err := s.disk(ctx, path); err != nil {
			return s.out, err
		}
		s.out.PerDisk = append(s.out.PerDisk, s.out.Kept-before)
	}
	if s.cutter != nil {
		s.out.MiBs = gauge.Over(s.took, func(d time.Duration) float64 { return float64(s.cut) / (1 << 20) / max(d.Seconds(), 1e-9) })
	}
	return s.out, nil
}

// disk cuts the cells of an image that hold data.
func (s *saw) disk(ctx context.Context, path string) (err error) {
	im, err := open.Path(path, open.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	b, last := make([]byte, cell), int64(-1)
	for e, err := range im.Extents(ctx, 0, im.Size()) {
		if err != nil {
			return err
		}
		for at := e.Offset / cell; e.Kind != vdisk.Zero && at*cell < e.End(); at++ {
			if at == last {
				continue
			}
			last = at
			bytes := b[:min(cell, im.Size()-at*cell)]
			if _, err := im.ReadAt(bytes, at*cell); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			s.cell(bytes)
		}
	}
	return nil
}

func (s *saw) cell(b []byte) {
	s.pieces = s.pieces[:0]
	if s.cutter == nil {
		for at := 0; at < len(b); at += s.block {
			x := chunk.Piece{Offset: int64(at), Length: int64(min(s.block, len(b)-at))}
			x.Zero = zero(b[at : at+int(x.Length)])
			s.pieces = append(s.pieces, x)
		}
	} else {
		for n := range s.runs {
			start := gauge.Clock()
			s.pieces = s.cutter.Cut(b, s.pieces[:0])
			s.took[n] += gauge.Clock() - start
		}
		s.cut += int64(len(b))
	}
	for _, x := range s.pieces {
		if x.Zero {
			continue
		}
		name := s.ids.ID(b[x.Offset : x.Offset+x.Length])
		s.count(name, x.Length)
	}
}

func (s *saw) count(name id.Chunk, n int64) {
	s.out.Chunks++
	s.out.Data += n
	if short := [16]byte(name[:16]); !s.seen[short] {
		s.seen[short] = true
		s.out.Kept += n
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Print writes the result as Markdown.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s %d guests.\n\n", r.Machine, len(r.Images))
	rows := [][]string{{"cutter", "data MiB", "kept MiB", "found again, %", "of what single blocks find, %", "mean chunk KiB", "MiB per CPU-s", "kept of each guest, MiB"}}
	for _, o := range r.Outcomes {
		speed, each := "-", ""
		if o.MiBs.Median > 0 {
			speed = o.MiBs.Text("%.0f")
		}
		for i, n := range o.PerDisk {
			if i > 0 {
				each += " + "
			}
			each += fmt.Sprint(n >> 20)
		}
		rows = append(rows, []string{
			o.Name, fmt.Sprint(o.Data >> 20), fmt.Sprint(o.Kept >> 20), fmt.Sprintf("%.1f", 100*float64(o.Data-o.Kept)/float64(max(o.Data, 1))), fmt.Sprintf("%.1f", 100*o.OfMost),
			fmt.Sprintf("%.1f", float64(o.Data)/1024/float64(max(o.Chunks, 1))), speed, each,
		})
	}
	return gauge.Table(w, 1, rows...)
}
