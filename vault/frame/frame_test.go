package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// noise returns n incompressible bytes, the same for the same seed.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// program is real data that compresses: this test's own binary.
func program(t testing.TB, n int) []byte {
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 64<<10); err != nil {
		t.Fatal(err)
	}
	return b
}

func codec(t testing.TB, name string) Codec {
	c, err := New(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func contents(t testing.TB) map[string][]byte {
	repeated := bytes.Repeat(noise(4096, 9), 16)
	mixed := append(noise(48<<10, 3), make([]byte, 16<<10)...)
	return map[string][]byte{
		"empty": {}, "one byte": {7}, "zeros": make([]byte, 256<<10), "noise": noise(64<<10, 1), "small noise": noise(100, 1),
		"program": program(t, 256<<10), "odd length": program(t, 70001), "repeated noise": repeated, "mixed": mixed,
		"cell": program(t, 4<<20), "text": bytes.Repeat([]byte("all work and no play makes a dull disk\n"), 1500),
	}
}

func TestWhatIsEncodedComesBack(t *testing.T) {
	var d Decoder
	prefix := []byte("before")
	for _, name := range Codecs() {
		c := codec(t, name)
		for what, content := range contents(t) {
			framed := c.Encode(bytes.Clone(prefix), content)
			if !bytes.HasPrefix(framed, prefix) {
				t.Fatalf("%s of %s: what was in dst is gone", name, what)
			}
			framed = framed[len(prefix):]
			if len(framed) > len(content)+Overhead {
				t.Errorf("%s of %s: %d bytes became %d", name, what, len(content), len(framed))
			}
			got, err := d.Decode(bytes.Clone(prefix), framed, len(content))
			if err != nil || !bytes.Equal(got, append(bytes.Clone(prefix), content...)) {
				t.Errorf("%s of %s: %v, %d bytes back of %d", name, what, err, len(got), len(content))
			}
			if again := c.Encode(nil, content); !bytes.Equal(again, framed) {
				t.Errorf("%s of %s: encoding again gives other bytes", name, what)
			}
			if len(content) > 0 {
				if _, err := d.Decode(nil, framed, len(content)-1); !errors.Is(err, ErrDamaged) {
					t.Errorf("%s of %s: one byte more than allowed gives %v", name, what, err)
				}
			}
		}
	}
}

// Which codec a frame names is on disk, so it is part of the format.
func TestCodecOfAFrame(t *testing.T) {
	all := contents(t)
	for _, each := range []struct {
		codec, content string
		want           byte
	}{
		{"auto", "program", codecMinLZ}, {"auto", "noise", codecNone}, {"auto", "zeros", codecMinLZ}, {"auto", "mixed", codecMinLZ},
		{"auto", "repeated noise", codecMinLZ}, {"auto", "text", codecMinLZ}, {"auto", "empty", codecNone}, {"auto", "one byte", codecNone},
		{"lz4", "program", codecLZ4}, {"lz4", "noise", codecNone}, {"lz4", "empty", codecNone},
		{"minlz", "program", codecMinLZ}, {"minlz", "noise", codecNone}, {"minlz", "small noise", codecNone},
		{"s2", "program", codecS2}, {"s2", "noise", codecNone}, {"s2", "small noise", codecNone},
		{"zstd", "program", codecZstd}, {"zstd", "noise", codecNone}, {"zstd", "empty", codecNone},
		{"none", "zeros", codecNone},
	} {
		if got := codec(t, each.codec).Encode(nil, all[each.content])[0]; got != each.want {
			t.Errorf("%s of %s names codec %d, want %d", each.codec, each.content, got, each.want)
		}
	}
}

// A chunk that would save less than a sixteenth is not worth decompressing.
func TestAutoWantsASixteenth(t *testing.T) {
	auto, minlz := codec(t, "auto"), codec(t, "minlz")
	stored, packed := 0, 0
	for zeros := 0; zeros <= 16<<10; zeros += 256 {
		content := append(noise(64<<10-zeros, 5), make([]byte, zeros)...)
		saved := len(content) - len(minlz.Encode(nil, content))
		got := auto.Encode(nil, content)
		if got[0] == codecMinLZ {
			packed++
			if saved < len(content)/worthwhile-Overhead {
				t.Errorf("%d bytes saved of %d, and still packed", saved, len(content))
			}
		} else {
			stored++
			if saved > len(content)/worthwhile+Overhead && zeros > 8<<10 {
				t.Errorf("%d bytes could be saved of %d, and were not", saved, len(content))
			}
		}
	}
	if stored == 0 || packed == 0 {
		t.Errorf("%d stored, %d packed: the border was not met", stored, packed)
	}
}

// The sample must not overlook what MinLZ would find in real files.
func TestAutoLosesLittleOnRealData(t *testing.T) {
	content := program(t, 4<<20)
	auto, minlz := codec(t, "auto"), codec(t, "minlz")
	var a, s int
	for at := 0; at < len(content); at += 64 << 10 {
		a += len(auto.Encode(nil, content[at:at+64<<10]))
		s += len(minlz.Encode(nil, content[at:at+64<<10]))
	}
	if float64(a) > 1.02*float64(s) {
		t.Errorf("auto needs %d bytes where minlz needs %d", a, s)
	}
}

func TestEncodeUsesTheRoomItIsGiven(t *testing.T) {
	content := program(t, 64<<10)
	for _, name := range []string{"auto", "minlz", "lz4", "s2", "none"} {
		c := codec(t, name)
		room := make([]byte, 0, 2*len(content))
		if n := testing.AllocsPerRun(20, func() { c.Encode(room, content) }); n > 0 {
			t.Errorf("%s: %v allocations though there is room", name, n)
		}
		framed := c.Encode(nil, content)
		var d Decoder
		if n := testing.AllocsPerRun(20, func() {
			if _, err := d.Decode(room, framed, len(content)); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("decoding %s: %v allocations though there is room", name, n)
		}
	}
}

func TestUnknownCodecName(t *testing.T) {
	if _, err := New("lzma"); err == nil {
		t.Error("lzma was taken for a codec")
	}
}

func frameOf(codec byte, content uint64, payload ...byte) []byte {
	return append(binary.AppendUvarint([]byte{codec}, content), payload...)
}

func TestMalformedFrames(t *testing.T) {
	program := program(t, 8192)
	s2, minlz := codec(t, "s2").Encode(nil, program), codec(t, "minlz").Encode(nil, program)
	big, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := big.EncodeAll(make([]byte, 64<<20), nil)
	for what, each := range map[string]struct {
		frame []byte
		want  error
	}{
		"nothing":                 {nil, ErrDamaged},
		"codec only":              {[]byte{0}, ErrDamaged},
		"endless length":          {append([]byte{0}, bytes.Repeat([]byte{0xff}, 20)...), ErrDamaged},
		"length not the shortest": {[]byte{0, 0x81, 0x00, 7}, ErrDamaged},
		"length of 2^63":          {frameOf(0, 1<<63), ErrDamaged},
		"raw, too short":          {frameOf(0, 3, 1, 2), ErrDamaged},
		"raw, too long":           {frameOf(0, 1, 1, 2), ErrDamaged},
		"lz4 of nothing":          {frameOf(1, 0), ErrDamaged},
		"lz4 noise":               {frameOf(1, 8192, noise(300, 8)...), ErrDamaged},
		"lz4 longer than said":    {frameOf(1, 2, 0x10, 7), ErrDamaged},
		"s2 names 4 GiB":          {frameOf(2, 8192, 0xff, 0xff, 0xff, 0xff, 0x0f, 0), ErrDamaged},
		"s2 says another length":  {append(frameOf(2, 8191), s2[3:]...), ErrDamaged},
		"s2 cut short":            {s2[:len(s2)-1], ErrDamaged},
		"minlz names 4 GiB":       {frameOf(4, 8192, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0), ErrDamaged},
		"minlz says another size": {append(frameOf(4, 8191), minlz[3:]...), ErrDamaged},
		"minlz cut short":         {minlz[:len(minlz)-1], ErrDamaged},
		"s2 called minlz":         {append([]byte{codecMinLZ}, s2[1:]...), ErrDamaged},
		"zstd noise":              {frameOf(3, 8192, noise(300, 7)...), ErrDamaged},
		"zstd bomb":               {frameOf(3, 16384, bomb...), ErrDamaged},
		"zstd bomb, said so":      {frameOf(3, 64<<20, bomb...), ErrDamaged},
		"codec of the future":     {frameOf(9, 100, 1, 2, 3), ErrNewer},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := Decode(nil, each.frame, 16384)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, each.want) || got != nil {
			t.Errorf("%s: %d bytes and %v", what, len(got), err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%s: %d bytes allocated", what, n)
		}
	}
}

// A MinLZ frame as docs/format/chunk-frame.md shows it: it stays readable.
func TestGoldenMinLZ(t *testing.T) {
	const golden = "0464006420666c6f77203d014d"
	content := strings.Repeat("flow ", 20)
	framed, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(nil, framed, 100); err != nil || string(got) != content {
		t.Errorf("%q, %v; written today: %x", got, err, codec(t, "minlz").Encode(nil, []byte(content)))
	}
}

func TestDecoderInParallel(t *testing.T) {
	var d Decoder
	var wait sync.WaitGroup
	content := program(t, 64<<10)
	for _, name := range Codecs() {
		framed := codec(t, name).Encode(nil, content)
		for range 4 {
			wait.Go(func() {
				for range 50 {
					if got, err := d.Decode(nil, framed, len(content)); err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
	}
	wait.Wait()
}

func FuzzDecode(f *testing.F) {
	content := program(f, 4096)
	for _, name := range Codecs() {
		f.Add(codec(f, name).Encode(nil, content))
		f.Add(codec(f, name).Encode(nil, content[:10]))
	}
	f.Add(frameOf(2, 8192, 0xff, 0xff, 0xff, 0xff, 0x0f, 0))
	d := &Decoder{}
	f.Fuzz(func(t *testing.T, framed []byte) {
		const most = 64 << 10
		got, err := d.Decode(nil, framed, most)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if len(got) > most {
			t.Fatalf("%d bytes, at most %d were allowed", len(got), most)
		}
		c, _ := New("auto")
		back, err := d.Decode(nil, c.Encode(nil, got), most)
		if err != nil || !bytes.Equal(back, got) {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	inputs := []struct {
		name    string
		content []byte
	}{{"program", program(b, 64<<10)}, {"noise", noise(64<<10, 1)}}
	for _, name := range Codecs() {
		for _, in := range inputs {
			b.Run(fmt.Sprintf("%s/%s", name, in.name), func(b *testing.B) {
				c := codec(b, name)
				room := make([]byte, 0, 128<<10)
				b.SetBytes(int64(len(in.content)))
				for b.Loop() {
					room = c.Encode(room[:0], in.content)
				}
			})
		}
	}
}
