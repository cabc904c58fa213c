package peers

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// Report is all that was found out.
type Report struct {
	Machine      gauge.Machine     `json:"machine"`
	Image        string            `json:"image"`
	Size         int64             `json:"size_bytes"`
	Allocated    int64             `json:"allocated_bytes"`
	RestoreOf    int64             `json:"allocated_bytes_at_the_end"`
	Changed      float64           `json:"changed"` // share of blocks
	ChangedBytes int64             `json:"changed_bytes"`
	Runs         int               `json:"runs"`
	Tools        []string          `json:"tools"`
	Versions     map[string]string `json:"versions"`
	Absent       []string          `json:"absent,omitempty"`
	Results      []Result          `json:"results"`
	Checks       []gauge.Check     `json:"checks"`
}

func (r *Report) look(image string) error {
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	r.Image, r.Size = filepath.Base(image), info.Size()
	r.Allocated, err = gauge.DiskUsage(image)
	return err
}

// of are the results of one program in one phase, run by run.
func (r *Report) of(phase, tool string) (of []Result) {
	for _, x := range r.Results {
		if x.Phase == phase && x.Tool == tool {
			of = append(of, x)
		}
	}
	return of
}

// check holds Millrace beside the others, run by run.
func (r *Report) check() {
	add := func(name string, limit float64, least bool, f func(run int) float64) {
		var all []float64
		for run := range r.Runs {
			all = append(all, f(run))
		}
		r.Checks = append(r.Checks, gauge.Check{Name: name, Limit: limit, Least: least, Value: gauge.Of(all...)})
	}
	faster := func(phase, tool string, run int) float64 {
		return r.of(phase, tool)[run].Seconds / r.of(phase, own)[run].Seconds
	}
	restic, borg := slices.Contains(r.Tools, "restic"), slices.Contains(r.Tools, "borg")
	if restic {
		add("full backup, times restic's speed", 2.8, true, func(n int) float64 { return faster(full, "restic", n) })
	}
	if borg {
		add("full backup, times borg's speed", 2.2, true, func(n int) float64 { return faster(full, "borg", n) })
		add("full backup, stored bytes beside borg's", 1.02, false, func(n int) float64 {
			return float64(r.of(full, own)[n].Stored) / float64(r.of(full, "borg")[n].Stored)
		})
	}
	if restic && borg {
		add("second backup, all read, times the faster one's speed", 4, true, func(n int) float64 { return min(faster(reread, "restic", n), faster(reread, "borg", n)) })
	}
	if restic {
		add("restore, times restic's speed", 2, true, func(n int) float64 { return faster(restore, "restic", n) })
	}
	add("restored file, allocated bytes beside the image's", 1.01, false, func(n int) float64 { return float64(r.of(restore, own)[n].Allocated) / float64(r.RestoreOf) })
	add("tables and ledger of the full backup, % of protected bytes", 0.15, false, func(n int) float64 { return 100 * float64(r.of(full, own)[n].Metadata) / float64(r.Allocated) })
	add("tables and ledger of the increment, % of changed bytes", 3, false, func(n int) float64 { return 100 * float64(r.of(changed, own)[n].Metadata) / float64(r.ChangedBytes) })
}

// Print writes the report as Markdown.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s Image %s, %d MiB allocated of %d MiB; %d run(s), medians and ranges.\n\n", r.Machine, r.Image, r.Allocated>>20, r.Size>>20, r.Runs)
	for _, t := range r.Tools {
		fmt.Fprintf(w, "- %s: %s\n", t, r.Versions[t])
	}
	for _, absent := range r.Absent {
		fmt.Fprintf(w, "- left out: %s\n", absent)
	}
	fmt.Fprintln(w)
	rows := [][]string{{"phase", "tool", "s", "MiB/s", "CPU s/GiB", "stored MiB", "memory MiB", "largest process MiB"}}
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	for _, phase := range phases() {
		for _, tool := range r.Tools {
			of := r.of(phase, tool)
			rows = append(rows, []string{
				r.words(phase), tool, gauge.Over(of, func(x Result) float64 { return x.Seconds }).Text("%.1f"),
				gauge.Over(of, func(x Result) float64 { return x.MiBs }).Text("%.0f"), gauge.Over(of, func(x Result) float64 { return x.CPUGiB }).Text("%.2f"),
				gauge.Over(of, func(x Result) float64 { return mib(x.Stored) }).Text("%.1f"), gauge.Over(of, func(x Result) float64 { return mib(x.Memory) }).Text("%.0f"),
				gauge.Over(of, func(x Result) float64 { return mib(x.LargestRSS) }).Text("%.0f"),
			})
		}
	}
	if err := gauge.Table(w, 2, rows...); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return gauge.PrintChecks(w, r.Checks)
}

// words is a phase as a reader of the table has it.
func (r *Report) words(phase string) string {
	switch phase {
	case reread:
		return "unchanged, read again"
	case changed:
		return fmt.Sprintf("%g %% changed", 100*r.Changed)
	}
	return phase
}
