package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// wellFormed fails unless b is XML with all of the words in it.
func wellFormed(t *testing.T, b []byte, words ...string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	var text strings.Builder
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%.2000s", err, b)
		}
		if c, ok := tok.(xml.CharData); ok {
			text.Write(c)
		}
	}
	for _, w := range words {
		if !strings.Contains(text.String(), w) {
			t.Errorf("%q is not in the picture", w)
		}
	}
}

func TestCurves(t *testing.T) {
	lines := []Line{
		{"one chunker", []Point{{1, 200, 190, 210}, {2, 380, 350, 400}}}, {"two & more", []Point{{1, 210, 200, 220}}}, {Name: "none"},
	}
	var a, b bytes.Buffer
	for _, out := range []*bytes.Buffer{&a, &b} {
		if err := Curves(out, Frame{"Scaling", "workers of seal", "MiB/s"}, lines); err != nil {
			t.Fatal(err)
		}
	}
	wellFormed(t, a.Bytes(), "Scaling", "workers of seal", "one chunker", "two & more")
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same figures give different pictures")
	}
	if err := Curves(&a, Frame{}, nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("got %v", err)
	}
	if Curves(&a, Frame{}, []Line{{"x", []Point{{1, math.NaN(), 0, 0}}}}) == nil {
		t.Error("a point that is no number was drawn")
	}
}

func TestStacks(t *testing.T) {
	var out bytes.Buffer
	layers := []Layer{{"reader", []float64{0.2, 0.2}}, {"seal", []float64{2, 1.5}}}
	if err := Stacks(&out, Frame{"Where it goes", "", "CPU-s/GiB"}, []string{"auto", "lz4"}, layers); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, out.Bytes(), "Where it goes", "auto", "lz4", "seal")
	if err := Stacks(&out, Frame{}, nil, layers); !errors.Is(err, ErrEmpty) {
		t.Errorf("got %v", err)
	}
	if Stacks(&out, Frame{}, []string{"one"}, layers) == nil {
		t.Error("two values for one bar were drawn")
	}
}
