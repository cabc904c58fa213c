package parts

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzParse: what is taken keeps to Check and is written again as it was read.
func FuzzParse(f *testing.F) {
	seed := [][]Range{nil, {{0, 4}, {5, 1}}, nil, {{1 << 40, 1}, {1<<62 + 1, 1 << 20}, {1<<63 - 3, 2}}}
	f.Add(Append(nil, len(seed), func(n int) []Range { return seed[n] }), uint16(len(seed)))
	f.Add([]byte{0, 0, 0, 0}, uint16(1))
	f.Add([]byte{255, 255, 255, 255}, uint16(65535))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 255, 255}, uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, chunks uint16) {
		got := make([][]Range, chunks)
		err := Parse(b, int(chunks), func(n int, p []Range) error {
			if got[n] != nil {
				t.Fatalf("chunk %d twice", n)
			}
			var raw uint32
			for _, r := range p {
				raw += r.Length
			}
			if len(p) == 0 {
				return errors.New("no parts")
			}
			got[n] = p
			return Check(p, p[0].Offset, raw)
		})
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if again := Append(nil, int(chunks), func(n int) []Range { return got[n] }); !bytes.Equal(again, b) {
			t.Fatalf("%x is read and written as %x", b, again)
		}
	})
}
