package session

import (
	"strings"
	"testing"
	"time"
)

func TestProgressInAPipeIsALineAMinute(t *testing.T) {
	var out strings.Builder
	clock := time.Unix(0, 0)
	a := New(nil, nil, &out)
	a.Now = func() time.Time { return clock }
	p := a.Progress("restore web.vhdx")
	for n := range int64(300) {
		clock = clock.Add(time.Second)
		p.At(n<<20, 300<<20)
	}
	p.Done()
	want := "restore web.vhdx: 19 %, 59.0 MiB of 300.0 MiB, 1006.9 KiB/s\n"
	if got := out.String(); strings.Count(got, "\n") != 5 || !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want five lines that begin with %q", got, want)
	}
	out.Reset()
	a.Settings.Quiet = true
	a.Progress("x").At(1, 0)
	if out.Len() > 0 {
		t.Errorf("--quiet said %q", out.String())
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB", 1<<63 - 1: "8.0 EiB"} {
		if got := Size(n); got != want {
			t.Errorf("%d bytes: got %s, want %s", n, got, want)
		}
	}
}
