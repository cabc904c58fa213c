package workload

import (
	"bytes"
	"compress/flate"
	"os"
	"path/filepath"
	"testing"
)

// A volume is the same each time, a third of it is written, and pages shrink.
func TestDatabaseLooksLikeOne(t *testing.T) {
	dir := t.TempDir()
	one, two, other := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "other")
	for path, seed := range map[string]uint64{one: 1, two: 1, other: 2} {
		if err := Database(path, 32<<20, seed); err != nil {
			t.Fatal(err)
		}
	}
	if !sameFile(t, one, two) || sameFile(t, one, other) {
		t.Error("the seed does not decide the bytes")
	}
	b, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	written, zero := 0, make([]byte, 1<<20)
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestSpeed)
	for at := 0; at < len(b); at += 1 << 20 {
		if !bytes.Equal(b[at:at+1<<20], zero) {
			written++
			_, _ = w.Write(b[at : at+1<<20])
		}
	}
	_ = w.Close()
	if written < 5 || written > 20 {
		t.Errorf("%d of 32 extents are written", written)
	}
	if ratio := float64(packed.Len()) / float64(written<<20); ratio < 0.2 || ratio > 0.7 {
		t.Errorf("pages shrink to %.2f", ratio)
	}
}
