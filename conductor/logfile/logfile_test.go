package logfile

import (
	"os"
	"strings"
	"testing"
)

// A log whose disk is full is complained of once, in words, and stops nobody.
func TestAFullDiskIsSaidOnce(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("needs /dev/full: ", err)
	}
	var said strings.Builder
	l, err := open("/dev/full", &said)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		l.Info("something happened")
	}
	const want = "millrace: the log /dev/full is not complete, and this is not said again: write /dev/full: no space left on device\n"
	if said.String() != want {
		t.Errorf("said %q", said.String())
	}
}
