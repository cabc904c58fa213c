package vdisk_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

// Runs that lie in the file take its holes over, in the places of the disk.
func TestRuns(t *testing.T) {
	file := vdisktest.NewSparse(64 << 10)
	if _, err := file.WriteAt(make([]byte, 8<<10), 40<<10); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	next := func(off, to int64) (vdisk.Run, error) {
		switch {
		case off < 16<<10:
			return vdisk.Run{Kind: vdisk.Inherited, Length: min(4<<10, to-off)}, nil
		case off < 48<<10:
			return vdisk.Run{Stored: true, At: off + 16<<10, Length: min(32<<10, to-off)}, nil
		case off < 52<<10:
			return vdisk.Run{Kind: vdisk.Data, Length: min(4<<10, to-off)}, nil
		}
		return vdisk.Run{}, broken
	}
	got, err := vdisktest.Collect(vdisk.Runs(t.Context(), file, 60<<10, 0, 60<<10, next))
	want := []vdisk.Extent{{0, 16 << 10, vdisk.Inherited}, {16 << 10, 8 << 10, vdisk.Zero}, {24 << 10, 8 << 10, vdisk.Data}, {32 << 10, 16 << 10, vdisk.Zero}, {48 << 10, 4 << 10, vdisk.Data}}
	if !errors.Is(err, broken) || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for n := range want {
		for range vdisk.Runs(t.Context(), file, 60<<10, 0, 60<<10, next) {
			if n--; n < 0 {
				break // an iterator that yields again after this panics
			}
		}
	}
}

func TestReadFull(t *testing.T) {
	file := vdisktest.FromBytes([]byte("0123456789"))
	p := make([]byte, 4)
	if err := vdisk.ReadFull(file, p, 6); err != nil || string(p) != "6789" {
		t.Errorf("%q, %v", p, err)
	}
	if err := vdisk.ReadFull(file, p, 7); !errors.Is(err, vdisk.ErrTruncated) {
		t.Errorf("across the end: %v", err)
	}
}
