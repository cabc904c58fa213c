package gauge

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Spread is what several measurements of one thing come to.
type Spread struct {
	Median float64   `json:"median"`
	Least  float64   `json:"least"`
	Most   float64   `json:"most"`
	All    []float64 `json:"all"` // in the order in which they were taken
}

// Of sums up figures; without any it is zero.
func Of(all ...float64) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Least: sorted[0], Most: sorted[n-1], All: all}
}

// Over sums up one figure of several results.
func Over[T any](results []T, figure func(T) float64) Spread {
	all := make([]float64, 0, len(results))
	for _, r := range results {
		all = append(all, figure(r))
	}
	return Of(all...)
}

// Text is the median in the given format, with the range beside it if there were
// several measurements.
func (s Spread) Text(format string) string {
	text := fmt.Sprintf(format, s.Median)
	if len(s.All) > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", s.Least, s.Most)
	}
	return text
}

// Table writes Markdown. The first row is the heading; columns from the right'th on
// are numbers.
func Table(w io.Writer, right int, rows ...[]string) error {
	var b strings.Builder
	for n, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if n > 0 {
			continue
		}
		for i := range row {
			b.WriteString(map[bool]string{true: "|--:", false: "|---"}[i >= right])
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Save writes v as JSON into dir, which it makes.
func Save(dir, name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), append(text, '\n'), 0o644)
}
