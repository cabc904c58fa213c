package check

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/restore"
)

// What verify tells a person has no control characters; what it tells a script is the name as it is.
func TestHostileNames(t *testing.T) {
	const name = "we\x1b[2Jb\r"
	point := events.PointCommitted{GuestName: name, Time: events.At(time.Unix(0, 0))}
	report := restore.Report{DamageCount: 1, Damages: []restore.Damage{{Object: "packs/" + name, Cause: restoreError(name), Ranges: []restore.Range{{Key: name}}}}}
	for _, asJSON := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		app := session.New(nil, &stdout, &stderr)
		app.Settings.JSON = asJSON
		c := run{verb: verb{app}}
		c.printReport(point, report, "chunks", time.Second)
		c.printMarks([]marked{{name: name}})
		text := stdout.String() + stderr.String()
		want := map[bool]string{false: `we\x1b[2Jb\r`, true: `we\u001b[2Jb\r`}[asJSON]
		if strings.ContainsAny(text, "\x1b\r") || strings.Count(text, want) < 3 {
			t.Errorf("json %v: %q", asJSON, text)
		}
	}
}

type restoreError string

func (e restoreError) Error() string { return "chunk of " + string(e) }
