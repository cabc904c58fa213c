package sweep

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/bench/gauge"
	"github.com/millrace-backup/millrace/bench/picture"
	"github.com/millrace-backup/millrace/flow"
)

// Print writes the result as Markdown.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s Image %s, %d MiB of data; %d round(s), medians and ranges; the sweep took %.0f s.\n\n", r.Machine, r.Image, r.Bytes>>20, r.Rounds, r.Seconds)
	rows := [][]string{append([]string{"point", "MiB/s", "CPU-s/GiB", "stored MiB"}, parts()...)}
	for _, x := range r.Outcomes {
		row := []string{x.Name, x.MiBs.Text("%.0f"), x.CPUGiB.Text("%.2f"), fmt.Sprintf("%.1f", float64(x.Stored)/(1<<20))}
		for _, stage := range parts() {
			cell := fmt.Sprintf("%.2f", x.Stages[stage].Median)
			if stage != rest {
				cell += fmt.Sprintf(", %.0f %%", x.Busy[stage].Median)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	if err := gauge.Table(w, 1, rows...); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nBelow the name of a stage: CPU-s per GiB of all its workers, and the share of their time in which they were busy.")
	fmt.Fprintln(w)
	return gauge.PrintChecks(w, []gauge.Check{r.Check})
}

// Draw writes the pictures into a folder: scaling.svg and cpu.svg.
func (r *Result) Draw(dir string) error {
	draw := func(name string, f func(io.Writer) error) error {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644)
	}
	if err := draw("scaling.svg", func(w io.Writer) error {
		return picture.Curves(w, picture.Frame{Title: "Speed of a full backup", X: "workers of seal", Y: "MiB/s"}, r.curves())
	}); err != nil {
		return err
	}
	return draw("cpu.svg", func(w io.Writer) error {
		names, layers := r.stacks()
		return picture.Stacks(w, picture.Frame{Title: "Where processor time goes", Y: "CPU-s per GiB"}, names, layers)
	})
}

// curves are the grid: a line for each number of chunkers.
func (r *Result) curves() []picture.Line {
	lines := map[int]*picture.Line{}
	var order []int
	for _, x := range r.Outcomes {
		if x.Factor != "grid" && x.Factor != "defaults" {
			continue
		}
		n := x.Parallel[flow.Chunker]
		if lines[n] == nil {
			lines[n] = &picture.Line{Name: fmt.Sprintf("chunker=%d", n)}
			order = append(order, n)
		}
		lines[n].Points = append(lines[n].Points, picture.Point{X: float64(x.Parallel[flow.Seal]), Y: x.MiBs.Median, Low: x.MiBs.Least, High: x.MiBs.Most})
	}
	slices.Sort(order)
	var out []picture.Line
	for _, n := range order {
		slices.SortFunc(lines[n].Points, func(a, b picture.Point) int { return int(a.X - b.X) })
		out = append(out, *lines[n])
	}
	return out
}

// stacks are the points outside the grid: a bar each, a layer for each stage.
func (r *Result) stacks() (names []string, layers []picture.Layer) {
	for _, stage := range parts() {
		layers = append(layers, picture.Layer{Name: stage})
	}
	for _, x := range r.Outcomes {
		if x.Factor == "grid" {
			continue
		}
		names = append(names, x.Name)
		for i := range layers {
			layers[i].Values = append(layers[i].Values, x.Stages[layers[i].Name].Median)
		}
	}
	return names, layers
}
