package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/bench/workload"
)

// result is what one tool took for one phase.
type result struct {
	Run        int     `json:"run"`
	Tool       string  `json:"tool"`
	Phase      string  `json:"phase"`
	Seconds    float64 `json:"seconds"`
	CPU        float64 `json:"cpu_s"`
	MiBs       float64 `json:"mib_per_s"`     // of allocated bytes
	CPUGiB     float64 `json:"cpu_s_per_gib"` // of allocated bytes
	Stored     int64   `json:"stored_bytes"`  // what the repository grew by
	Memory     int64   `json:"memory_bytes"`  // most that all processes had together; 0: ended too soon to be seen
	LargestRSS int64   `json:"largest_rss_bytes"`
}

// imageFacts are what was backed up.
type imageFacts struct {
	Folder    string `json:"folder"`
	Files     int    `json:"files"`
	Size      int64  `json:"size_bytes"`
	Allocated int64  `json:"allocated_bytes"`
}

func factsOf(image, folder string, c workload.Content) (imageFacts, error) {
	info, err := os.Stat(image)
	if err != nil {
		return imageFacts{}, err
	}
	allocated, err := diskUsage(image)
	return imageFacts{Folder: folder, Files: c.Files, Size: info.Size(), Allocated: allocated}, err
}

// report is all that was found out.
type report struct {
	Machine map[string]string `json:"machine"`
	Started time.Time         `json:"started"`
	Image   imageFacts        `json:"image"`
	Changed float64           `json:"changed"` // share of blocks
	Runs    int               `json:"runs"`
	Absent  []string          `json:"absent,omitempty"`
	Results []result          `json:"results"`
}

func (r *report) save(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// print writes the report as Markdown.
func (r *report) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d run(s). Image: %d files of %s, %d MiB allocated of %d MiB.\n\n", r.Started.Format("2006-01-02 15:04 UTC"), r.Runs,
		r.Image.Files, r.Image.Folder, r.Image.Allocated>>20, r.Image.Size>>20)
	keys := make([]string, 0, len(r.Machine))
	for key := range r.Machine {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		fmt.Fprintf(&b, "- %s: %s\n", key, r.Machine[key])
	}
	for _, absent := range r.Absent {
		fmt.Fprintf(&b, "- left out: %s\n", absent)
	}
	b.WriteString("\n| phase | tool | s | MiB/s | CPU s/GiB | stored MiB | memory MiB | largest process MiB |\n|---|---|--:|--:|--:|--:|--:|--:|\n")
	for _, phase := range phases() {
		for _, name := range []string{"millrace", "restic", "borg"} {
			if of := r.of(phase, name); len(of) > 0 {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.words(phase), name,
					spread(of, "%.1f", func(x result) float64 { return x.Seconds }), spread(of, "%.0f", func(x result) float64 { return x.MiBs }),
					spread(of, "%.2f", func(x result) float64 { return x.CPUGiB }), spread(of, "%.1f", func(x result) float64 { return float64(x.Stored) / (1 << 20) }),
					spread(of, "%.0f", func(x result) float64 { return float64(x.Memory) / (1 << 20) }),
					spread(of, "%.0f", func(x result) float64 { return float64(x.LargestRSS) / (1 << 20) }))
			}
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *report) of(phase, tool string) (of []result) {
	for _, x := range r.Results {
		if x.Phase == phase && x.Tool == tool {
			of = append(of, x)
		}
	}
	return of
}

// words is a phase as a reader of the table has it.
func (r *report) words(phase string) string {
	switch phase {
	case "reread":
		return "unchanged, read again"
	case "changed":
		return fmt.Sprintf("%g %% changed", 100*r.Changed)
	}
	return phase
}

// spread is the median of a figure, with the range if there were several runs.
func spread(of []result, format string, figure func(result) float64) string {
	var all []float64
	for _, x := range of {
		all = append(all, figure(x))
	}
	slices.Sort(all)
	n := len(all)
	middle := (all[(n-1)/2] + all[n/2]) / 2
	text := fmt.Sprintf(format, middle)
	if n > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", all[0], all[n-1])
	}
	return text
}
