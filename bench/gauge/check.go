package gauge

import (
	"fmt"
	"io"
)

// Check is a figure with the line it is to reach.
type Check struct {
	Name  string  `json:"name"`
	Value Spread  `json:"value"`
	Limit float64 `json:"limit"`
	Least bool    `json:"at_least"` // else at most
}

// Met reports whether the median is on the right side of the line.
func (c Check) Met() bool {
	if c.Least {
		return c.Value.Median >= c.Limit
	}
	return c.Value.Median <= c.Limit
}

// PrintChecks writes a table of checks.
func PrintChecks(w io.Writer, checks []Check) error {
	rows := [][]string{{"to reach", "is", "wanted", ""}}
	for _, c := range checks {
		sign, word := "≤", "missed"
		if c.Least {
			sign = "≥"
		}
		if c.Met() {
			word = "met"
		}
		rows = append(rows, []string{c.Name, c.Value.Text("%.2f"), fmt.Sprintf("%s %g", sign, c.Limit), word})
	}
	return Table(w, 1, rows...)
}
