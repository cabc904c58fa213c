package layout

import (
	"strings"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/vdisk"
)

// Locator says where a parent is and how it is told from others. Section
// 2.6.2.6.
type Locator struct {
	Linkage  GUID // the parent's data write GUID
	Linkage2 GUID // another one that is right, around a merge; or zero

	// Places, as Windows has them; empty where the child has none.
	Relative string // ..\dir\base.vhdx
	Volume   string // \\?\Volume{guid}\dir\base.vhdx
	Absolute string // \\?\C:\dir\base.vhdx
}

const (
	locatorType   = "b04aefb7-d19e-4a81-b789-25b8e9445913" // of a VHDX parent, the only one there is
	locatorHeader = 20                                     // section 2.6.2.6.1
	locatorEntry  = 12                                     // section 2.6.2.6.2

	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyVolume   = "volume_path"
	keyAbsolute = "absolute_win32_path"
)

// parseLocator decodes a parent locator item. Unknown keys are passed over.
func parseLocator(b []byte) (Locator, error) {
	var l Locator
	if kind := GUID(b[:16]).String(); kind != locatorType {
		return l, vdisk.Unsupported("parent locator of type %s", kind)
	}
	count := int(le16(b[18:]))
	if locatorHeader+count*locatorEntry > len(b) {
		return l, vdisk.BadFormat("parent locator of %d bytes has %d entries", len(b), count)
	}
	values := map[string]string{}
	left := len(b) // strings do not share bytes: what they take together is bounded
	for i := range count {
		e := b[locatorHeader+i*locatorEntry:][:locatorEntry]
		key, ok1 := locatorText(b, le32(e), le16(e[8:]), &left)
		value, ok2 := locatorText(b, le32(e[4:]), le16(e[10:]), &left)
		if !ok1 || !ok2 || key == "" {
			return l, vdisk.BadFormat("entry %d of the parent locator lies outside it", i)
		}
		if _, twice := values[key]; twice {
			return l, vdisk.BadFormat("the parent locator has %q twice", key)
		}
		values[key] = value
	}
	var ok bool
	if l.Linkage, ok = ReadGUID(values[keyLinkage]); !ok {
		return l, vdisk.BadFormat("the parent locator's %s is %q", keyLinkage, values[keyLinkage])
	}
	if text, there := values[keyLinkage2]; there {
		if l.Linkage2, ok = ReadGUID(text); !ok {
			return l, vdisk.BadFormat("the parent locator's %s is %q", keyLinkage2, text)
		}
	}
	l.Relative, l.Volume, l.Absolute = values[keyRelative], values[keyVolume], values[keyAbsolute]
	if l.Relative == "" && l.Volume == "" && l.Absolute == "" {
		return l, vdisk.BadFormat("the parent locator has no path")
	}
	return l, nil
}

// locatorText returns a string of the locator, of which left bytes may still be
// used.
func locatorText(b []byte, off uint32, length uint16, left *int) (string, bool) {
	if length%2 != 0 || int64(off)+int64(length) > int64(len(b)) || int64(off) < locatorHeader {
		return "", false
	}
	if *left -= int(length); *left < 0 {
		return "", false
	}
	units := make([]uint16, length/2)
	for i := range units {
		units[i] = le16(b[int(off)+2*i:])
	}
	return string(utf16.Decode(units)), true
}

// bytes is the locator as it is stored.
func (l Locator) bytes() []byte {
	var list [][2]string
	add := func(key, value string) {
		if value != "" {
			list = append(list, [2]string{key, value})
		}
	}
	braced := func(g GUID) string { return "{" + g.String() + "}" }
	add(keyLinkage, braced(l.Linkage))
	if !l.Linkage2.IsZero() {
		add(keyLinkage2, braced(l.Linkage2))
	}
	add(keyRelative, l.Relative)
	add(keyVolume, l.Volume)
	add(keyAbsolute, l.Absolute)

	b := make([]byte, locatorHeader+len(list)*locatorEntry)
	kind := ParseGUID(locatorType)
	copy(b, kind[:])
	put16(b[18:], uint16(len(list)))
	for i, pair := range list {
		e := locatorHeader + i*locatorEntry
		for side, text := range pair {
			put32(b[e+4*side:], uint32(len(b)))
			units := utf16.Encode([]rune(text))
			put16(b[e+8+2*side:], uint16(2*len(units)))
			for _, u := range units {
				b = append(b, byte(u), byte(u>>8))
			}
		}
	}
	return b
}

// Parent is the locator in the form that all formats share.
func (l Locator) Parent() vdisk.Parent {
	p := vdisk.Parent{Format: "vhdx", Links: []string{l.Linkage.String()}}
	if !l.Linkage2.IsZero() {
		p.Links = append(p.Links, l.Linkage2.String())
	}
	for _, c := range []struct {
		kind vdisk.PathKind
		path string
	}{{vdisk.RelativePath, l.Relative}, {vdisk.VolumePath, l.Volume}, {vdisk.AbsolutePath, l.Absolute}} {
		if path := strings.TrimRight(c.path, "\x00"); path != "" {
			p.Paths = append(p.Paths, vdisk.ParentPath{Kind: c.kind, Path: path, Windows: true})
		}
	}
	return p
}
