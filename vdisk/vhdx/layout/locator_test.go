package layout

import (
	"errors"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
)

func full() Locator {
	return Locator{Linkage: ParseGUID(RegionBAT), Linkage2: ParseGUID(RegionMetadata), Relative: `..\b.vhdx`, Volume: `\\?\Volume{x}\ü.vhdx`, Absolute: `\\?\C:\𝄞.vhdx`}
}

func TestLocator(t *testing.T) {
	for _, l := range []Locator{full(), {Linkage: ParseGUID(RegionBAT), Absolute: "x"}} {
		if got, err := parseLocator(l.bytes()); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%+v, %v; want %+v", got, err, l)
		}
	}
	p := full().Parent()
	if len(p.Links) != 2 || p.Links[0] != RegionBAT || len(p.Paths) != 3 || p.Paths[0].Kind != vdisk.RelativePath || p.Paths[1].Kind != vdisk.VolumePath || p.Paths[2].Kind != vdisk.AbsolutePath {
		t.Errorf("parent %+v", p)
	}
	for name, c := range map[string]struct {
		spoil func(b []byte)
		want  error
	}{
		"type":           {func(b []byte) { b[0]++ }, vdisk.ErrUnsupported},
		"count":          {func(b []byte) { b[19] = 9 }, vdisk.ErrFormat},
		"offset":         {func(b []byte) { b[22] = 9 }, vdisk.ErrFormat},
		"odd length":     {func(b []byte) { b[28]++ }, vdisk.ErrFormat},
		"linkage":        {func(b []byte) { copy(b[20+5*12+2*14:], "x\x00x\x00") }, vdisk.ErrFormat},
		"same key twice": {func(b []byte) { copy(b[32:36], b[20:24]); copy(b[40:42], b[28:30]) }, vdisk.ErrFormat},
		"shared strings": {func(b []byte) { b[28], b[29] = 0xFE, 0x01 }, vdisk.ErrFormat},
	} {
		b := full().bytes()
		c.spoil(b)
		if _, err := parseLocator(b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
}

// FuzzLocator decodes anything; what is decoded means the same when it is written
// and decoded again.
func FuzzLocator(f *testing.F) {
	f.Add(full().bytes())
	f.Add(Locator{Linkage: ParseGUID(RegionBAT), Relative: "x"}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < locatorHeader || int64(len(b)) > maxItemSize {
			return // ReadMetadata does not let these through
		}
		l, err := parseLocator(b)
		if err != nil {
			return
		}
		again, err := parseLocator(l.bytes())
		if err == nil && !reflect.DeepEqual(again, l) {
			t.Errorf("%+v comes back as %+v", l, again)
		}
		_ = l.Parent()
	})
}
