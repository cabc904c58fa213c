package vmconfig

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
)

// readXML reads the form of 2012 R2 and before: an element for each name, the
// values as text.
func (t *tree) readXML(b []byte) error {
	b = utf8Of(b)
	// The decoder makes a value of every attribute of an element before it hands that out.
	if bytes.Count(b, []byte("=")) > maxEquals {
		return fmt.Errorf("%w: XML of more than %d attributes", ErrForm, maxEquals)
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // it is UTF-8 by now
	path := []*node{&t.root}
	nodes := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: XML: %w", ErrForm, err)
		}
		top := path[len(path)-1]
		switch x := token.(type) {
		case xml.StartElement:
			if nodes++; nodes > maxNodes || len(path) > maxDepth {
				return fmt.Errorf("%w: XML of more than %d elements or %d levels", ErrForm, maxNodes, maxDepth)
			}
			n := &node{name: x.Name.Local}
			top.below = append(top.below, n)
			path = append(path, n)
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			// Between elements there is only white space. Pieces of one value are few:
			// comments and the like part them.
			if len(path) > 1 && len(top.below) == 0 && len(top.value)+len(x) <= maxText {
				top.value += string(x)
			}
		}
	}
}

// utf8Of is text in UTF-8 without a byte order mark, that comes in it or in UTF-16.
func utf8Of(b []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte{0xEF, 0xBB, 0xBF}):
		return b[3:]
	case bytes.HasPrefix(b, []byte{0xFF, 0xFE}), len(b) > 1 && b[0] == '<' && b[1] == 0:
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte{0xFE, 0xFF}), len(b) > 1 && b[0] == 0 && b[1] == '<':
		order = binary.BigEndian
	default:
		return b
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	if len(units) > 0 && units[0] == 0xFEFF {
		units = units[1:]
	}
	return []byte(string(utf16.Decode(units)))
}
