package inplace_test

import (
	"bytes"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/crashfile"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhdx"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
	"github.com/millrace-backup/millrace/vdisk/vhdx/strict"
)

// One session goes round the log several times; power that fails on the way finds
// the table of the last flush, or of the one that is under way.
func TestLogGoesRound(t *testing.T) {
	f, d := begin(t, vdisktest.NewSparse(8*mib), create.Options{BlockSize: mib})
	round, flushed, looked := byte(0), byte(0), 0
	f.Hook = func() {
		if f.Effects()%41 != 0 || t.Failed() {
			return
		}
		for _, mode := range []crashfile.Mode{crashfile.Lost, crashfile.Kept, crashfile.Random} {
			looked++
			c := f.Crash(mode, uint64(f.Effects()))
			m, err := vhdx.Open(c, nil)
			if err != nil {
				t.Fatalf("round %d, %s: %v", round, mode, err)
			}
			if looked%30 == 0 { // it searches a full log slowly
				if _, err := strict.Open(c, c.Size(), nil); err != nil {
					t.Fatalf("round %d, %s: %v", round, mode, err)
				}
			}
			got := make([]byte, 4096)
			if _, err := m.ReadAt(got, mib); err != nil {
				t.Fatal(err)
			}
			if x := got[0]; !bytes.Equal(got, bytes.Repeat([]byte{x}, len(got))) && mode != crashfile.Random || x != flushed && x != round && x != 0 {
				t.Fatalf("round %d, %s: a byte is %d, flushed was %d", round, mode, x, flushed)
			}
		}
	}
	for n := range 300 { // an entry takes 8 KiB of a log of 1 MiB
		round = byte(n%200 + 1)
		var err error
		if n%2 == 0 {
			_, err = d.WriteAt(bytes.Repeat([]byte{round}, 4096), mib)
		} else {
			round = 0
			err = d.Zero(mib, mib)
		}
		if err == nil {
			err = d.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		flushed = round
	}
	if looked < 60 {
		t.Errorf("only %d cuts", looked)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	sound(t, f)
}
