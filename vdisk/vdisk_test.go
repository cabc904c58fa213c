package vdisk_test

import (
	"errors"
	"io"
	"iter"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
)

func TestWindow(t *testing.T) {
	other := errors.New("not EOF")
	for _, c := range []struct {
		length    int
		off, size int64
		want      int
		err       error
	}{
		{10, 0, 100, 10, nil},
		{10, 90, 100, 10, nil},
		{10, 91, 100, 9, io.EOF},
		{10, 100, 100, 0, io.EOF},
		{10, 1 << 62, 100, 0, io.EOF},
		{0, 100, 100, 0, nil},
		{10, -1, 100, 0, other},
		{10, 1<<63 - 5, 1<<63 - 1, 4, io.EOF},
	} {
		p, err := vdisk.Window(make([]byte, c.length), c.off, c.size)
		if len(p) != c.want || errors.Is(err, io.EOF) != (c.err == io.EOF) || (err == nil) != (c.err == nil) {
			t.Errorf("Window(%d, %d, %d) = %d bytes, %v", c.length, c.off, c.size, len(p), err)
		}
	}
}

func sequence(extents []vdisk.Extent, err error) iter.Seq2[vdisk.Extent, error] {
	return func(yield func(vdisk.Extent, error) bool) {
		for _, e := range extents {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(vdisk.Extent{}, err)
		}
	}
}

func TestMerge(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		in   []vdisk.Extent
		err  error
		want []vdisk.Extent
	}{
		{"nothing", nil, nil, nil},
		{"neighbours", []vdisk.Extent{{0, 4, vdisk.Data}, {4, 4, vdisk.Data}, {8, 2, vdisk.Zero}}, nil,
			[]vdisk.Extent{{0, 8, vdisk.Data}, {8, 2, vdisk.Zero}}},
		{"empty between", []vdisk.Extent{{0, 4, vdisk.Data}, {4, 0, vdisk.Zero}, {4, 1, vdisk.Data}}, nil,
			[]vdisk.Extent{{0, 5, vdisk.Data}}},
		{"only empty", []vdisk.Extent{{0, 0, vdisk.Data}}, nil, nil},
		{"what came before an error is kept", []vdisk.Extent{{0, 4, vdisk.Data}}, broken, []vdisk.Extent{{0, 4, vdisk.Data}}},
	} {
		var got []vdisk.Extent
		var last error
		for e, err := range vdisk.Merge(sequence(c.in, c.err)) {
			if last = err; err == nil {
				got = append(got, e)
			}
		}
		if !reflect.DeepEqual(got, c.want) || !errors.Is(last, c.err) {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, got, last, c.want, c.err)
		}
		for range vdisk.Merge(sequence(c.in, c.err)) {
			break
		}
	}
}
