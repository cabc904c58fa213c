package read

import (
	"bytes"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
)

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"web 1.vhdx":            "web 1.vhdx",
		"Büro-日本":               "Büro-日本",
		"a\x1b[2Jb":             `a\x1b[2Jb`,
		"a\rb\nc\td":            `a\rb\nc\td`,
		"nul\x00 del\x7f":       `nul\x00 del\x7f`,
		"csi\u009b31m":          `csi\u009b31m`,
		"left\u202eright":       `left\u202eright`,
		"not utf-8 \xff\xc3":    `not utf-8 \xff\xc3`,
		`C:\VMs "web" it's`:     `C:\VMs "web" it's`,
		"replacement \ufffd it": "replacement \ufffd it",
	} {
		if got := session.Plain(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	if got, want := session.PlainLines("<a>\r\n\t<b\x1b/>\n"), "<a>\n\t<b\\x1b/>\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// No cell of a table can end it, or begin the next.
func TestPrintRow(t *testing.T) {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	printRow(w, "we\tb\n", "\x1b]0;title\a")
	printRow(w, "x", "y")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "we\\tb\\n  \\x1b]0;title\\a\nx        y\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What restore tells a person has no control characters; what it tells a script is
// the name as it is. Package check does the same for verify.
func TestHostileNames(t *testing.T) {
	const name = "we\x1b[2Jb\r"
	point := events.PointCommitted{GuestName: name, Time: events.At(time.Unix(0, 0))}
	for _, asJSON := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		app := session.New(nil, &stdout, &stderr)
		app.Settings.JSON = asJSON
		verb{app}.printRestored(point, []restoredDisk{{Key: name, Path: name}}, time.Second, session.Recorded{})
		text := stdout.String() + stderr.String()
		want := map[bool]string{false: `we\x1b[2Jb\r`, true: `we\u001b[2Jb\r`}[asJSON]
		if strings.ContainsAny(text, "\x1b\r") || !strings.Contains(text, want) {
			t.Errorf("json %v: %q", asJSON, text)
		}
	}
}
