package session

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Plain makes text that came out of a guest or a vault fit for a terminal:
// what is not printable, which could move the cursor, change colours or turn the
// direction of writing, and what is not UTF-8 is written as in a Go string.
func Plain(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[n:]
	}
	return b.String()
}

// PlainLines is Plain for a text of many lines.
func PlainLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for n, line := range lines {
		cells := strings.Split(line, "\t")
		for i := range cells {
			cells[i] = Plain(cells[i])
		}
		lines[n] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}
