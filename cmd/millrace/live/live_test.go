package live

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/id"
)

var update = flag.Bool("update", false, "rewrite golden files")

func report() board.Report {
	r := board.Report{
		Type: "status", Job: id.Job{1, 0x93, 0xaa}, Host: "node1", PID: 4711, Phase: board.Running, Elapsed: 83.27, Total: 40 << 30, Zero: 2 << 30, Known: 1 << 30, New: 9 << 30, Done: 12 << 30,
		Stored: 4 << 30, Bottleneck: "seal", Scalings: 3, Limits: map[string]int64{"reader": 10 << 20}, Began: time.Unix(0, 0),
		Guests: []board.Guest{{Name: "web", Point: "77"}, {Name: "db\x1b[31m", Failed: true}, {Name: "mail"}},
		Arena:  []board.Pool{{Pool: "raw", SlotSize: 4 << 20, Free: 5, Filling: 1, Full: 2}, {Pool: "sealed", SlotSize: 4 << 20, Free: 24}},
	}
	for n, stage := range []string{"snapshot", "reader", "chunker", "delta", "seal", "uploader", "indexer"} {
		r.Stages = append(r.Stages, board.Stage{Stage: stage, Workers: 1, Queue: uint64(n), Busy: 0.1 * float64(n), Starved: 1 - 0.1*float64(n), InRate: 100e6 * float64(n), OutRate: 50e6, CPU: 0.1 * float64(n)})
	}
	r.Stages[4] = board.Stage{Stage: "seal", Workers: 5, Leaving: 1, Elsewhere: 2, Busy: 0.983, Blocked: 0.017, InRate: 1.5e9, OutRate: 1e9, CPU: 3.2, Queue: 123, Restarts: 2}
	return r
}

func TestFrame(t *testing.T) {
	waiting := report()
	waiting.Waits, waiting.Outcome, waiting.Stages = "no such folder", "failed", nil
	var got strings.Builder
	for _, r := range []board.Report{report(), waiting} {
		got.WriteString(strings.Join(frame(r), "\n") + "\n\n")
	}
	if *update {
		if err := os.WriteFile("testdata/frame.txt", []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/frame.txt")
	if err != nil || string(want) != got.String() {
		t.Errorf("%v; got:\n%s", err, got.String())
	}
	for _, l := range frame(report()) {
		if strings.Contains(l, "\x1b") {
			t.Errorf("a guest's name moves the cursor: %q", l)
		}
	}
}

// terminal is as much of one as is needed: it knows where the cursor is, and that
// lines longer than itself would wrap.
type terminal struct {
	t     *testing.T
	width int
	lines []string
	at    int
}

func (m *terminal) Write(b []byte) (int, error) {
	for text := string(b); text != ""; {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			n := strings.IndexAny(text, "AKJ")
			switch text[n] {
			case 'A':
				up := 0
				for _, c := range text[2:n] {
					up = up*10 + int(c-'0')
				}
				if m.at -= up; m.at < 0 {
					m.t.Error("the cursor left the screen")
				}
			case 'J':
				m.lines = m.lines[:min(m.at, len(m.lines))]
			}
			text = text[n+1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			l, rest, _ := strings.Cut(text, "\n")
			if len([]rune(l)) > m.width {
				m.t.Errorf("a line of %d letters wraps: %q", len([]rune(l)), l)
			}
			for len(m.lines) <= m.at {
				m.lines = append(m.lines, "")
			}
			m.lines[m.at] = l
			m.at++
			text = rest
		}
	}
	return len(b), nil
}

// A frame is drawn over the one before, and nothing of that is left; what does not
// fit the terminal is cut.
func TestFramesReplaceEachOther(t *testing.T) {
	m := &terminal{t: t, width: 60}
	s := &screen{app: session.New(nil, m, m), out: m, terminal: true, size: func() (int, int) { return 60, 12 }}
	s.print(report())
	if len(m.lines) != 11 {
		t.Errorf("%d lines on a terminal of 12", len(m.lines))
	}
	short := report()
	short.Stages = nil
	s.print(short)
	s.print(short)
	if len(m.lines) != 4 || m.at != 4 || !strings.HasPrefix(m.lines[0], "job 0193aa00  running") {
		t.Errorf("the screen shows %q", m.lines)
	}
}

// In a pipe frames follow each other without a control sequence, with --json each is
// a line.
func TestWithoutATerminal(t *testing.T) {
	var out strings.Builder
	a := session.New(nil, &out, &out)
	s := screenOf(a)
	s.print(report())
	s.print(report())
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "job 0193aa00") != 2 || !strings.Contains(out.String(), "\n\njob ") {
		t.Errorf("got %s", out.String())
	}
	out.Reset()
	a.Settings.JSON = true
	s.print(report())
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, `{"type":"status","job":"0193aa`) || !strings.Contains(got, `"bottleneck":"seal"`) {
		t.Errorf("got %s", got)
	}
}

func TestOrders(t *testing.T) {
	for _, c := range []struct {
		args  string
		job   string
		n     int
		cause string
	}{
		{"seal=4", "", 1, ""}, {"0193 seal=4 delta=2", "0193", 2, ""}, {"latest reader=1", "latest", 1, ""},
		{"seal=0", "", 1, ""}, // only the job knows whether others do its work
		{"0193", "", 0, "what to change"}, {"a b seal=1", "", 0, "STAGE=N"}, {"seal=1 x", "", 0, "STAGE=N"}, {"seal=two", "", 0, "STAGE=N"}, {"seal=", "", 0, "STAGE=N"},
		{"seal=1 seal=2", "", 0, "twice"}, {"indexer=2", "", 0, "one journal"}, {"snapshot=3", "", 0, "one lock"}, {"seal=65", "", 0, "1 to 64"}, {"boil=1", "", 0, "no stage"},
	} {
		job, stages, err := orders(strings.Fields(c.args))
		if c.cause == "" && (err != nil || job != c.job || len(stages) != c.n) || c.cause != "" && (err == nil || !strings.Contains(err.Error(), c.cause)) {
			t.Errorf("%s: %q %v %v", c.args, job, stages, err)
		}
	}
}
