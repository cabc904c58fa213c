package vdisk_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

func TestBeneath(t *testing.T) {
	parent := vdisktest.NewSparse(20 << 10)
	if _, err := parent.WriteAt([]byte("x"), 8<<10); err != nil {
		t.Fatal(err)
	}
	own := []vdisk.Extent{{0, 4 << 10, vdisk.Zero}, {4 << 10, 12 << 10, vdisk.Inherited}, {16 << 10, 1 << 10, vdisk.Data}, {17 << 10, 13 << 10, vdisk.Inherited}, {30 << 10, 2 << 10, vdisk.Inherited}}
	want := []vdisk.Extent{{0, 8 << 10, vdisk.Zero}, {8 << 10, 4 << 10, vdisk.Data}, {12 << 10, 4 << 10, vdisk.Zero}, {16 << 10, 1 << 10, vdisk.Data}, {17 << 10, 15 << 10, vdisk.Zero}}
	got, err := vdisktest.Collect(vdisk.Beneath(t.Context(), sequence(own, nil), parent, 32<<10))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	broken := errors.New("broken")
	if _, err := vdisktest.Collect(vdisk.Beneath(t.Context(), sequence(own, broken), parent, 32<<10)); !errors.Is(err, broken) {
		t.Error(err)
	}
	for n := range want {
		seen := 0
		for range vdisk.Beneath(t.Context(), sequence(own, nil), parent, 32<<10) {
			if seen++; seen > n {
				break // an iterator that yields again after this panics
			}
		}
	}
}

func TestReadBeneath(t *testing.T) {
	parent := vdisktest.FromBytes([]byte("0123456789"))
	for _, c := range []struct {
		off  int64
		want string
	}{{0, "0123"}, {6, "6789"}, {8, "89\x00\x00"}, {10, "\x00\x00\x00\x00"}, {1 << 40, "\x00\x00\x00\x00"}} {
		p := []byte("????")
		if err := vdisk.ReadBeneath(parent, p, c.off); err != nil || string(p) != c.want {
			t.Errorf("at %d: %q, %v; want %q", c.off, p, err, c.want)
		}
	}
}

func TestNoParent(t *testing.T) {
	_, err := vdisk.NoParent(vdisk.Parent{Paths: []vdisk.ParentPath{{Kind: vdisk.RelativePath, Path: `.\base.vhd`, Windows: true}}})
	if !errors.Is(err, vdisk.ErrUnsupported) || !strings.Contains(err.Error(), "base.vhd") {
		t.Error(err)
	}
}
