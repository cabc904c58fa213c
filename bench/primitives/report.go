package primitives

import (
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// Print writes the result as Markdown.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s Image %s, %d MiB of data in %d parcels; %d run(s), medians and ranges.\n\n", r.Machine, r.Image, r.Bytes>>20, r.Parcels, r.Runs)
	rows := [][]string{{"primitive, one thread", "MiB/s of what it works on", "CPU-s per GiB of the image", "in the sum"}}
	for _, s := range r.Steps {
		summed := ""
		if s.Summed {
			summed = "yes"
		}
		rows = append(rows, []string{s.Name, s.MiBs.Text("%.0f"), s.CPUGiB.Text("%.3f"), summed})
	}
	rows = append(rows, []string{"sum", "", r.Sum.Text("%.3f"), ""})
	if err := gauge.Table(w, 1, rows...); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nHere is the whole work, the bare loop with %d thread(s); MiB/s of the image's data.\n\n", r.Threads)
	rows = [][]string{{"whole", "MiB/s", "CPU-s/GiB", "stored MiB"}}
	for _, x := range r.Wholes {
		stored := "-"
		if x.Stored > 0 {
			stored = fmt.Sprintf("%.1f", float64(x.Stored)/(1<<20))
		}
		rows = append(rows, []string{x.Name, x.MiBs.Text("%.0f"), x.CPUGiB.Text("%.2f"), stored})
	}
	if err := gauge.Table(w, 1, rows...); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return gauge.PrintChecks(w, r.Checks)
}
