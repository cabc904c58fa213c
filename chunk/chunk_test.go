package chunk

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const cellSize = 4 << 20

var testKey = [32]byte{1, 2, 3}

var cutterNames = []string{Aligned, Fixed, FastCDC}

func params(name string) Params {
	p := Default()
	p.Name = name
	return p
}

func cutter(t testing.TB, p Params, key [32]byte) Cutter {
	t.Helper()
	c, err := New(p, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// noise is n random bytes; the generator's stream is fixed by its specification.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// holed is noise with zero runs, given as pairs of offset and length.
func holed(seed byte, n int, holes ...int) []byte {
	b := noise(seed, n)
	for i := 0; i < len(holes); i += 2 {
		clear(b[holes[i] : holes[i]+holes[i+1]])
	}
	return b
}

const kib = 1 << 10

// cells are the shapes a cell can have.
func cells() map[string][]byte {
	return map[string][]byte{
		"random":                     noise(1, cellSize),
		"random, short tail":         noise(2, 1<<20+1234),
		"all zero":                   make([]byte, cellSize),
		"all zero, one byte":         make([]byte, 1),
		"all zero, short":            make([]byte, 9000),
		"one byte":                   {7},
		"one block":                  noise(3, 4096),
		"a block and a byte":         noise(4, 4097),
		"min and a tail":             noise(5, 16*kib+100),
		"periodic":                   bytes.Repeat(noise(6, 4096), 1024),
		"zero run of 16 KiB":         holed(7, 1<<20, 100*kib, 16*kib),
		"zero run of 12 KiB":         holed(7, 1<<20, 100*kib, 12*kib),
		"zero run off the blocks":    holed(7, 1<<20, 100*kib+1, 16*kib),
		"zero run 20 KiB off blocks": holed(7, 1<<20, 100*kib+1, 20*kib),
		"zero run at the start":      holed(8, 1<<20, 0, 40*kib),
		"zero run at the end":        holed(8, 1<<20, 900*kib, 124*kib),
		"zero run into a short tail": holed(9, 500*kib+99, 480*kib, 20*kib+99),
		"short zero tail alone":      holed(9, 500*kib+99, 500*kib, 99),
		"runs a block apart":         holed(10, 1<<20, 64*kib, 16*kib, 84*kib, 16*kib, 104*kib, 8*kib, 116*kib, 64*kib),
	}
}

// checkCover fails unless the pieces cover the cell, keep Max and Min, and tell
// zero runs rightly.
func checkCover(t *testing.T, p Params, cell []byte, pieces []Piece) {
	t.Helper()
	var at int64
	for i, x := range pieces {
		if x.Offset != at || x.Length <= 0 {
			t.Fatalf("piece %d is [%d, +%d), the cover has come to %d", i, x.Offset, x.Length, at)
		}
		at += x.Length
		if at > int64(len(cell)) {
			t.Fatalf("piece %d ends at %d, the cell at %d", i, at, len(cell))
		}
		b := cell[x.Offset:at]
		zero := len(bytes.Trim(b, "\x00")) == 0
		last := i == len(pieces)-1
		edge := last || pieces[i+1].Zero || i > 0 && pieces[i-1].Zero
		switch {
		case x.Zero && !zero:
			t.Fatalf("piece %d [%d, +%d) is called zero and is not", i, x.Offset, x.Length)
		case x.Zero && x.Offset%int64(p.Block) != 0, x.Zero && !last && x.Length%int64(p.Block) != 0:
			t.Fatalf("zero run %d [%d, +%d) is not block-aligned", i, x.Offset, x.Length)
		case x.Zero && x.Length < int64(p.ZeroRun) && len(pieces) > 1:
			t.Fatalf("zero run %d is %d bytes short", i, x.Length)
		case x.Zero:
		case zero && x.Length >= int64(p.ZeroRun+p.Block):
			t.Fatalf("piece %d [%d, +%d) is zeros and no zero run", i, x.Offset, x.Length)
		case x.Length > int64(p.Max):
			t.Fatalf("piece %d has %d bytes, more than max %d", i, x.Length, p.Max)
		case x.Length < int64(p.Min) && !edge && p.Name != Fixed:
			t.Fatalf("piece %d has %d bytes, fewer than min %d, at no edge", i, x.Length, p.Min)
		case p.Name == Aligned && !last && x.Length%int64(p.Block) != 0:
			t.Fatalf("piece %d [%d, +%d) is not block-aligned", i, x.Offset, x.Length)
		}
	}
	if at != int64(len(cell)) {
		t.Fatalf("the cover ends at %d, the cell at %d", at, len(cell))
	}
}

func TestPiecesCoverTheCell(t *testing.T) {
	for _, name := range cutterNames {
		p := params(name)
		c := cutter(t, p, testKey)
		for what, cell := range cells() {
			t.Run(name+"/"+what, func(t *testing.T) {
				pieces := c.Cut(cell, nil)
				checkCover(t, p, cell, pieces)
				if !slices.Equal(pieces, c.CutHashed(cell, newBlocks(t, 1).Hash(0, cell, nil), nil)) {
					t.Error("it is cut in another way if its hashes are known")
				}
			})
		}
		if got := c.Cut(nil, nil); len(got) != 0 {
			t.Errorf("%s: an empty cell has pieces: %v", name, got)
		}
	}
}

func TestZeroRuns(t *testing.T) {
	runs := map[string][]Piece{
		"random":                     nil,
		"all zero":                   {{0, cellSize, true}},
		"all zero, one byte":         {{0, 1, true}},
		"all zero, short":            {{0, 9000, true}},
		"zero run of 16 KiB":         {{100 * kib, 16 * kib, true}},
		"zero run of 12 KiB":         nil,
		"zero run off the blocks":    nil,
		"zero run 20 KiB off blocks": {{104 * kib, 16 * kib, true}},
		"zero run at the start":      {{0, 40 * kib, true}},
		"zero run at the end":        {{900 * kib, 124 * kib, true}},
		"zero run into a short tail": {{480 * kib, 20*kib + 99, true}},
		"short zero tail alone":      nil,
		"runs a block apart":         {{64 * kib, 16 * kib, true}, {84 * kib, 16 * kib, true}, {116 * kib, 64 * kib, true}},
	}
	for _, name := range cutterNames {
		c := cutter(t, params(name), testKey)
		for what, want := range runs {
			got := slices.DeleteFunc(c.Cut(cells()[what], nil), func(x Piece) bool { return !x.Zero })
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: zero runs %v, want %v", name, what, got, want)
			}
		}
	}
}

// The cuts of a cell must not depend on what the same Cutter cut before, nor on
// what dst held.
func TestCutsArePure(t *testing.T) {
	all := cells()
	for _, name := range cutterNames {
		used := cutter(t, params(name), testKey)
		for range 2 {
			for what, cell := range all {
				before := slices.Clone(cell)
				want := cutter(t, params(name), testKey).Cut(cell, nil)
				got := used.Cut(cell, []Piece{{Offset: 99}})
				if got[0].Offset != 99 || !slices.Equal(got[1:], want) {
					t.Errorf("%s: cuts of %q differ after other cells", name, what)
				}
				if !bytes.Equal(cell, before) {
					t.Fatalf("%s: cell %q was written to", name, what)
				}
			}
		}
	}
}

func TestCutsDependOnTheKey(t *testing.T) {
	cell := noise(1, cellSize)
	for _, name := range []string{Aligned, FastCDC} {
		a := cutter(t, params(name), testKey).Cut(cell, nil)
		b := cutter(t, params(name), [32]byte{9}).Cut(cell, nil)
		ends := map[int64]bool{}
		for _, x := range a {
			ends[x.Offset+x.Length] = true
		}
		same := 0
		for _, x := range b {
			if ends[x.Offset+x.Length] {
				same++
			}
		}
		// Aligned cuts fall on 1,024 blocks, so some meet by chance.
		if same > len(b)/4 {
			t.Errorf("%s: %d of %d cuts are the same under another key", name, same, len(b))
		}
	}
}

// The golden vectors are what every vault relies on; a diff here means that an
// unchanged disk would be stored again.
func TestGoldenCuts(t *testing.T) {
	all := cells()
	var names []string
	for what := range all {
		names = append(names, what)
	}
	slices.Sort(names)
	for _, name := range cutterNames {
		var out strings.Builder
		c := cutter(t, params(name), testKey)
		for _, what := range names {
			fmt.Fprintf(&out, "%s:", what)
			for _, x := range c.Cut(all[what], nil) {
				mark := ""
				if x.Zero {
					mark = "z"
				}
				fmt.Fprintf(&out, " %d%s", x.Length, mark)
			}
			out.WriteByte('\n')
		}
		golden := filepath.Join("testdata", "cuts-"+name+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if out.String() != string(want) {
			t.Errorf("cuts differ from %s", golden)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, c := range []struct {
		name      string
		tolerance float64
	}{{Aligned, 0.15}, {FastCDC, 0.25}, {Fixed, 0}} { // FastCDC's own mean is 1.1 to 1.2 times what it is asked for
		cut := cutter(t, params(c.name), testKey)
		var n, sum, squares float64
		atMax := 0
		for i := range 24 {
			pieces := cut.Cut(noise(byte(i), cellSize), nil)
			for _, x := range pieces[:len(pieces)-1] { // the last is cut by the border
				n, sum, squares = n+1, sum+float64(x.Length), squares+float64(x.Length)*float64(x.Length)
				if x.Length == 256*kib {
					atMax++
				}
			}
		}
		mean := sum / n
		t.Logf("%s: %.0f chunks, mean %.1f KiB, deviation %.1f KiB, %d at max", c.name, n, mean/kib, math.Sqrt(squares/n-mean*mean)/kib, atMax)
		if off := math.Abs(mean/(64*kib) - 1); off > c.tolerance {
			t.Errorf("%s: the mean is %.1f KiB, %.0f %% off", c.name, mean/kib, off*100)
		}
		if float64(atMax) > n/100 {
			t.Errorf("%s: %d of %.0f chunks were cut by max", c.name, atMax, n)
		}
	}
}

// spans are the chunks of a cell by content, as a vault would know them.
func spans(cell []byte, pieces []Piece) map[string]bool {
	all := map[string]bool{}
	for _, x := range pieces {
		if !x.Zero {
			all[string(cell[x.Offset:x.Offset+x.Length])] = true
		}
	}
	return all
}

func TestAnEditChangesFewChunks(t *testing.T) {
	for _, name := range cutterNames {
		c := cutter(t, params(name), testKey)
		cell := noise(1, cellSize)
		before := spans(cell, c.Cut(cell, nil))
		r := rand.New(rand.NewPCG(1, 1))
		var stored int64
		const edits = 200
		for range edits {
			at := r.IntN(cellSize/4096) * 4096
			saved := slices.Clone(cell[at : at+4096])
			copy(cell[at:], noise(byte(r.Uint32()), 4096))
			for _, x := range c.Cut(cell, nil) {
				if !before[string(cell[x.Offset:x.Offset+x.Length])] {
					stored += x.Length
				}
			}
			copy(cell[at:], saved)
		}
		mean := stored / edits / kib
		t.Logf("%s: an edit of 4 KiB stores %d KiB again", name, mean)
		if mean > 160 {
			t.Errorf("%s: an edit of 4 KiB stores %d KiB again, the cuts do not fall back into step", name, mean)
		}
	}
}

// A file that lies elsewhere, at another multiple of the block, is found again.
func TestAMovedFileIsFound(t *testing.T) {
	file := noise(1, 2<<20)
	c := cutter(t, params(Aligned), testKey)
	a := append(noise(2, 300*kib), file...)
	b := append(noise(3, 812*kib), file...)
	known := spans(a, c.Cut(a, nil))
	var found int64
	for _, x := range c.Cut(b, nil) {
		if known[string(b[x.Offset:x.Offset+x.Length])] {
			found += x.Length
		}
	}
	if found < 3*int64(len(file))/4 {
		t.Errorf("%d KiB of a moved file of %d KiB were found", found/kib, len(file)/kib)
	}
}

func TestBadParamsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*Params){
		"no name":            func(p *Params) { p.Name = "" },
		"legacy fastcdc":     func(p *Params) { p.Name = "fastcdc" },
		"block 0":            func(p *Params) { p.Block = 0 },
		"block -4096":        func(p *Params) { p.Block = -4096 },
		"odd block":          func(p *Params) { p.Block = 4095 },
		"min 0":              func(p *Params) { p.Min = 0 },
		"min over normal":    func(p *Params) { p.Min = 128 << 10 },
		"normal over max":    func(p *Params) { p.Normal = 512 << 10 },
		"max over a cell":    func(p *Params) { p.Max = MaxChunk + 4096 },
		"odd max":            func(p *Params) { p.Max++ },
		"zero run 0":         func(p *Params) { p.ZeroRun = 0 },
		"odd zero run":       func(p *Params) { p.ZeroRun++ },
		"huge zero run":      func(p *Params) { p.ZeroRun = math.MaxInt32 &^ 4095 },
		"normal no power":    func(p *Params) { p.Name, p.Normal = FastCDC, 48<<10 },
		"everything as zero": func(p *Params) { *p = Params{} },
	} {
		p := Default()
		change(&p)
		if _, err := New(p, testKey); !errors.Is(err, ErrParams) {
			t.Errorf("%s: want ErrParams, got %v", what, err)
		}
	}
	if err := Default().Check(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	cell := holed(1, cellSize, 1<<20, 1<<20)
	for _, name := range cutterNames {
		c := cutter(t, params(name), testKey)
		dst := c.Cut(cell, nil)
		if n := testing.AllocsPerRun(5, func() { dst = c.Cut(cell, dst[:0]) }); n > 0 {
			t.Errorf("%s: %v allocations for a cell", name, n)
		}
	}
	ids := NewIDs(testKey)
	if n := testing.AllocsPerRun(5, func() { ids.ID(cell[:64<<10]) }); n > 0 {
		t.Errorf("ids: %v allocations for a chunk", n)
	}
}

func TestIDs(t *testing.T) {
	a, b := NewIDs(testKey), NewIDs([32]byte{9})
	x, y := noise(1, 100_000), noise(2, 100_000)
	want := a.ID(x)
	if a.ID(y) == want || a.ID(x[1:]) == want || a.ID(nil) == want {
		t.Error("other bytes have the same id")
	}
	if a.ID(x) != want {
		t.Error("the id depends on what was named before")
	}
	if b.ID(x) == want {
		t.Error("the id does not depend on the key")
	}
	// From the test vectors that BLAKE3's authors publish (test_vectors.json):
	// keyed_hash of no bytes and of one zero byte.
	official := NewIDs([32]byte([]byte("whats the Elvish word for friend")))
	for _, v := range []struct{ in, want string }{
		{"", "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"},
		{"\x00", "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"},
	} {
		if got := official.ID([]byte(v.in)).String(); got != v.want {
			t.Errorf("keyed BLAKE3 of %q: got %s, want %s", v.in, got, v.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte{1, 0, 0, 4, 0, 2}, uint16(7))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0}, uint16(0))
	f.Add([]byte("millrace"), uint16(4095))
	var cutters []Cutter
	small := map[string]Params{}
	for _, name := range cutterNames {
		p := Params{Name: name, Min: 1024, Normal: 4096, Max: 8192, Block: 512, ZeroRun: 1024}
		small[name] = p
		cutters = append(cutters, cutter(f, p, testKey))
	}
	blocks, err := NewBlocks([32]byte{1}, 512)
	if err != nil {
		f.Fatal(err)
	}
	// A seed byte stands for half a block: zeros, or noise of that number.
	f.Fuzz(func(t *testing.T, shape []byte, tail uint16) {
		var cell []byte
		for _, s := range shape[:min(len(shape), 200)] {
			if s%3 == 0 {
				cell = append(cell, make([]byte, 256)...)
			} else {
				cell = append(cell, noise(s, 256)...)
			}
		}
		cell = append(cell, noise(1, int(tail%512))...)
		for i, name := range cutterNames {
			pieces := cutters[i].Cut(cell, nil)
			checkCover(t, small[name], cell, pieces)
			if !slices.Equal(pieces, cutter(t, small[name], testKey).Cut(cell, nil)) {
				t.Fatalf("%s: cuts depend on what was cut before", name)
			}
			if !slices.Equal(pieces, cutters[i].CutHashed(cell, blocks.Hash(0, cell, nil), nil)) {
				t.Fatalf("%s: a cell is cut in another way if its hashes are known", name)
			}
		}
	})
}

func BenchmarkCut(b *testing.B) {
	data, zero := noise(1, cellSize), make([]byte, cellSize)
	for _, name := range cutterNames {
		for what, cell := range map[string][]byte{"data": data, "zeros": zero} {
			b.Run(name+"/"+what, func(b *testing.B) {
				c, dst := cutter(b, params(name), testKey), []Piece(nil)
				b.SetBytes(cellSize)
				b.ReportAllocs()
				for b.Loop() {
					dst = c.Cut(cell, dst[:0])
				}
				b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*256, "s/GiB")
			})
		}
	}
}

func BenchmarkIDs(b *testing.B) {
	data, x := noise(1, cellSize), NewIDs(testKey)
	b.SetBytes(cellSize)
	b.ReportAllocs()
	for b.Loop() {
		for at := 0; at < len(data); at += 64 << 10 {
			x.ID(data[at : at+64<<10])
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*256, "s/GiB")
}
