package read

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

// printRow writes one row of a table. Every row of this package goes through it,
// so that no cell can pretend to be another.
func printRow(w *tabwriter.Writer, cells ...string) {
	for i := range cells {
		cells[i] = session.Plain(cells[i])
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}
