package flow

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

var update = flag.Bool("update", false, "rewrite golden files and the examples of docs/format/parcel.md")

func chunkOf(b byte) (c id.Chunk) {
	for i := range c {
		c[i] = b + byte(i)
	}
	return c
}

// pieces is one of each form that pieces take.
var pieces = Pieces{
	{Offset: 0, Length: 16384, Zero: true},
	{Offset: 16384, Length: 65536, Chunk: chunkOf(0x10)},
	{Offset: 81920, Length: 100, Verdict: Known, Chunk: chunkOf(0x40)},
	{Offset: 82020, Length: 4096, Zero: true, Verdict: Unchanged},
	{Offset: 86116, Length: 45000, Verdict: New, Chunk: chunkOf(0x70), At: 4711, Stored: 30001},
	{Offset: 131116, Length: 4096, Verdict: New, Chunk: chunkOf(0x90), Raw: 12288, At: 34712, Stored: 9000},
	{Offset: 135212, Length: 65536, Verdict: Unchanged},
	{Offset: 200748, Length: 8192, Verdict: New, Chunk: chunkOf(0x90), From: 4096, Raw: 12288, At: 34712, Stored: 9000},
}

type wire struct {
	name string
	m    Message
}

// wires is one message of every kind, all fields set, and parcels as they are
// between stages.
var wires = []wire{
	{"parcel-of-snapshot", Message{Parcel: &Parcel{Disk: 2, Number: 3, Offset: 12 << 20, Length: 4 << 20, Runs: []Run{{12 << 20, 65536}, {13 << 20, 3 << 20}}}}},
	{"parcel-of-reader", Message{Parcel: &Parcel{Disk: 2, Number: 3, Pass: PassRecheck, Fresh: true, Offset: 12 << 20, Length: 4 << 20, Claim: arena.Claim{Slot: 5, Generation: 700, Length: 4 << 20}}}},
	{"parcel-of-seal", Message{Parcel: &Parcel{Disk: 1, Number: 1, Offset: 208940, Length: 208940, Claim: arena.Claim{Slot: 9, Generation: 3, Length: 43712}, Pieces: pieces, Sum: []byte("0123456789abcdef"), Blocks: []byte("records")}}},
	{"parcel-with-bytes", Message{Parcel: &Parcel{Disk: 2, Number: 3, Offset: 12 << 20, Length: 4 << 20, Claim: arena.Claim{Length: 11}}, Payload: []byte("these bytes")}},
	{"parcel-of-uploader", Message{Parcel: &Parcel{Disk: 1, Length: 208940, Pieces: pieces, Packs: []Pack{{Name: id.Object{0xaa, 31: 0xbb}, Size: 33 << 20, Chunks: 412, Raw: 60 << 20, Key: 0xdeadbeef}}}}},
	{"plan", Message{Plan: &Plan{Guest: 1, Facts: []byte("facts"), Recheck: []RecheckEntry{{1, 2}, {3, 4}}}}},
	{"plan-with-marks", Message{Plan: &Plan{Guest: 1, Facts: []byte("facts"), Recheck: []RecheckEntry{}, Marks: []Marks{{2, []byte{0x81, 0, 0x10}}}}}},
	{"ask", Message{Ask: &Ask{Guest: 1, Confirm: true, Release: true, Reread: []RecheckEntry{{5, 6}}, Pass: 1, Fresh: true, Plan: true}}},
	{"answer", Message{Answer: &Answer{Guest: 1, Confirmed: true, Released: true, Facts: []byte("more facts")}}},
	{"fault", Message{Fault: &Fault{Class: Park, Code: "image-unreadable", Stage: Reader, Op: "read", Object: "disk.img", Cause: "bad sector", Remedy: "check the disk", Disk: 3, Guest: 4, ByDisk: true}}},
}

var status = Status{
	Stage: Seal, Worker: 7, PID: 4242, Final: true, Held: 3, BusyNS: 1e9, StarvedNS: 2e9, BlockedNS: 3e9,
	InParcels: 10, OutParcels: 9, InBytes: 1 << 32, OutBytes: 1 << 31, Redelivered: 2, Stale: 1, Fault: &Fault{Class: Halt, Code: "store-full"},
}

func golden(t *testing.T, name string, v any, b []byte) {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got := string(text) + "\n\n" + hex.Dump(b)
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s changed its wire form; workers and indexer journals of one version share it. Now:\n%s", name, got)
	}
}

func TestGoldenMessages(t *testing.T) {
	used := map[string]bool{}
	for _, w := range wires {
		b, err := w.m.Encode()
		if err != nil {
			t.Fatal(w.name, err)
		}
		golden(t, w.name, w.m, b)
		back, err := DecodeMessage(b)
		if err != nil || !reflect.DeepEqual(back, &w.m) {
			t.Errorf("%s came back as %+v, %v", w.name, back, err)
		}
		v := reflect.ValueOf(w.m)
		for i := range v.NumField() {
			if !v.Field(i).IsNil() {
				used[v.Type().Field(i).Name] = true
			}
		}
	}
	for i := range reflect.TypeFor[Message]().NumField() {
		if name := reflect.TypeFor[Message]().Field(i).Name; !used[name] {
			t.Errorf("%s has no golden form", name)
		}
	}
	b, err := pieces.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "pieces", pieces, b)
	if b, err = events.Marshal(status); err != nil {
		t.Fatal(err)
	}
	golden(t, "status", status, b)
	var back Status
	if err := events.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, status) {
		t.Errorf("the status came back as %+v, %v", back, err)
	}
}

func with(m Message, payload string) Message {
	m.Payload = []byte(payload)
	return m
}

// Bytes that change on the way are noticed, wherever: sealed ones are stored as
// they come. Of a message that is cut short nothing is believed.
func TestPayloadsAreWhole(t *testing.T) {
	m := with(Message{Parcel: &Parcel{Offset: 1 << 20, Length: 1 << 16, Claim: arena.Claim{Length: 20}}}, "twenty bytes of data")
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for at := range b {
		if at >= 9 && at < len(b)-20 {
			continue // the head: msgpack has no sum of its own, TCP and the seal do
		}
		c := bytes.Clone(b)
		c[at] ^= 0x10
		if m, err := DecodeMessage(c); err == nil {
			t.Errorf("with byte %d of %d changed it is %+v", at, len(b), m)
		}
		if m, err := DecodeMessage(b[:at]); err == nil {
			t.Errorf("of the first %d bytes of %d it is %+v", at, len(b), m)
		}
	}
}

// What no honest worker sends is refused, on the way out too.
func TestMessagesAreChecked(t *testing.T) {
	p := func(change func(*Parcel)) Message {
		p := &Parcel{Offset: 1 << 20, Length: 1 << 16}
		change(p)
		return Message{Parcel: p}
	}
	for _, c := range []struct {
		name string
		m    Message
		ok   bool
	}{
		{"nothing", Message{}, false},
		{"two contents", Message{Plan: &Plan{}, Ask: &Ask{}}, false},
		{"good", p(func(*Parcel) {}), true},
		{"no length", p(func(p *Parcel) { p.Length = 0 }), false},
		{"negative length", p(func(p *Parcel) { p.Length = -1 }), false},
		{"huge", p(func(p *Parcel) { p.Length = 1<<30 + 1 }), false},
		{"negative offset", p(func(p *Parcel) { p.Offset = -1 }), false},
		{"beyond all disks", p(func(p *Parcel) { p.Offset = 1<<62 + 1 }), false},
		{"all of it a run", p(func(p *Parcel) { p.Runs = []Run{{1 << 20, 1 << 16}} }), true},
		{"neighbours", p(func(p *Parcel) { p.Runs = []Run{{1 << 20, 4096}, {1<<20 + 4096, 4096}} }), true},
		{"empty run", p(func(p *Parcel) { p.Runs = []Run{{1 << 20, 0}} }), false},
		{"run before", p(func(p *Parcel) { p.Runs = []Run{{1<<20 - 1, 2}} }), false},
		{"run beyond", p(func(p *Parcel) { p.Runs = []Run{{1 << 20, 1<<16 + 1}} }), false},
		{"run far beyond", p(func(p *Parcel) { p.Runs = []Run{{math.MaxInt64, 1}} }), false},
		{"run that wraps", p(func(p *Parcel) { p.Runs = []Run{{1 << 20, math.MaxInt64}} }), false},
		{"run that wraps back", p(func(p *Parcel) { p.Runs = []Run{{1<<20 + 1, math.MinInt64}} }), false},
		{"runs out of order", p(func(p *Parcel) { p.Runs = []Run{{1<<20 + 4096, 4096}, {1 << 20, 4096}} }), false},
		{"runs overlap", p(func(p *Parcel) { p.Runs = []Run{{1 << 20, 4096}, {1<<20 + 4095, 4096}} }), false},
		{"pieces", p(func(p *Parcel) { p.Pieces = Pieces{{Length: 1 << 15, Zero: true}, {Offset: 1 << 15, Length: 1 << 15}} }), true},
		{"pieces too short", p(func(p *Parcel) { p.Pieces = Pieces{{Length: 1 << 15, Zero: true}} }), false},
		{"pieces too long", p(func(p *Parcel) { p.Pieces = Pieces{{Length: 1 << 17, Zero: true}} }), false},
		{"pieces with a gap", p(func(p *Parcel) { p.Pieces = Pieces{{Length: 1 << 14, Zero: true}, {Offset: 1 << 15, Length: 1 << 15}} }), false},
		{"empty piece", p(func(p *Parcel) { p.Pieces = Pieces{{}, {Length: 1 << 16, Zero: true}} }), false},
		{"a verdict there is not", p(func(p *Parcel) { p.Pieces = Pieces{{Length: 1 << 16, Verdict: 4}} }), false},
		{"bytes with it", with(p(func(p *Parcel) { p.Claim.Length = 3 }), "abc"), true},
		{"fewer bytes than it says", with(p(func(p *Parcel) { p.Claim.Length = 4 }), "abc"), false},
		{"more bytes than it says", with(p(func(p *Parcel) { p.Claim.Length = 2 }), "abc"), false},
		{"bytes and a slot", with(p(func(p *Parcel) { p.Claim = arena.Claim{Slot: 1, Generation: 1, Length: 3} }), "abc"), false},
		{"a slot without a generation", p(func(p *Parcel) { p.Claim = arena.Claim{Slot: 1} }), false},
		{"bytes without a parcel", with(Message{Ask: &Ask{}}, "abc"), false},
		{"bytes that are missing", p(func(p *Parcel) { p.Claim.Length = 3 }), false},
		{"too many bytes with it", with(p(func(p *Parcel) { p.Claim.Length = MaxMessage }), string(make([]byte, MaxMessage))), false},
		{"too many bytes", Message{Plan: &Plan{Facts: make([]byte, MaxMessage)}}, false},
	} {
		b, err := c.m.Encode()
		if (err == nil) != c.ok {
			t.Errorf("%s: encode: %v", c.name, err)
		}
		if err != nil { // as somebody else would send it
			if b, err = events.Marshal(c.m); err != nil {
				continue
			}
		}
		if c.name == "too many bytes" || c.m.Payload != nil && !c.ok {
			continue // the server's limit, and the decoder's own
		}
		if _, err := DecodeMessage(b); (err == nil) != c.ok {
			t.Errorf("%s: decode: %v", c.name, err)
		}
	}
	for _, text := range []string{"", "\x80", "\xc0", "\x90", "\x81", "\xdf\xff\xff\xff\xff", "\x81\xa6parcel\xc0", "\x81\xa6parcel\x80", "\x81\xa6parcel\x80\x00"} {
		if m, err := DecodeMessage([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, m)
		}
	}
}

// Fields of a later version are passed over, not refused.
func TestUnknownFieldsAreSkipped(t *testing.T) {
	b, err := events.Marshal(map[string]any{"ask": map[string]any{"guest": 3, "later": []int{1, 2}}})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := DecodeMessage(b); err != nil || m.Ask == nil || m.Ask.Guest != 3 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestPiecesAreChecked(t *testing.T) {
	good, err := pieces.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		var p Pieces
		if err := p.UnmarshalBinary(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes pass for whole", n, len(good))
		}
	}
	id32 := strings.Repeat("00", 32)
	for name, text := range map[string]string{
		"nothing":                  "",
		"bytes left over":          "0000",
		"more than there is":       "ffffffff0f",
		"length zero":              "011000",
		"length zero, long form":   "01108000",
		"length in a long form":    "01108100",
		"count in a long form":     "81001001",
		"length beyond":            "01108180808008",
		"lengths that wrap":        "021010" + "10f0ffffffffffffffff01",
		"flag not ours":            "01900101",
		"flags in a long form":     "0190800001",
		"a part of zeros":          "0150010002",
		"a part of nothing":        "0140" + "01" + id32 + "0000",
		"a part that is the whole": "0140" + "01" + id32 + "0001",
		"a part that is too long":  "0140" + "02" + id32 + "0001",
		"a part from beyond":       "0140" + "02" + id32 + "0203",
		"a part that wraps":        "0140" + "02" + id32 + "ffffffff0f" + "03",
		"a part of too much":       "0140" + "02" + id32 + "00" + "8180808008",
		"a part cut off":           "0140" + "02" + id32 + "00",
		"verdict not ours":         "011401",
		"stored nothing":           "0120" + "01" + id32 + "0000",
		"stored beyond":            "0120" + "01" + id32 + "00" + "8180808008",
		"placed beyond":            "0120" + "01" + id32 + "8180808008" + "01",
		"a number without an end":  "0110ffffffffffffffffffffff",
		"a chunk id cut off":       "0100" + "01" + id32[2:],
		"a stored length cut off":  "0120" + "01" + id32 + "00",
		"a stored length too long": "0120" + "01" + id32 + "00" + "8100",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(name, err)
		}
		p := Pieces{{Length: 9}}
		if err := p.UnmarshalBinary(b); err == nil {
			t.Errorf("%s: %+v", name, p)
		} else if len(p) != 1 {
			t.Errorf("%s: refused, and yet changed", name)
		}
	}
	many := make(Pieces, MaxPieces)
	for i := range many {
		many[i] = Piece{Offset: uint32(i), Length: 1, Zero: true}
	}
	b, err := many.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var back Pieces
	if err := back.UnmarshalBinary(b); err != nil || !slices.Equal(many, back) {
		t.Errorf("%d pieces: %v", len(many), err)
	}
}

func FuzzPieces(f *testing.F) {
	b, _ := pieces.MarshalBinary()
	f.Add(b)
	f.Add([]byte{0})
	f.Add([]byte{2, 0x10, 16, 0x10, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Pieces
		if p.UnmarshalBinary(b) != nil {
			return
		}
		at := uint64(0)
		for i, x := range p {
			if uint64(x.Offset) != at || x.Length == 0 || x.Verdict > New || x.Stored == 0 && x.At != 0 ||
				x.Raw != 0 && uint64(x.From)+uint64(x.Length) > uint64(x.Raw) || x.Raw == 0 && x.From != 0 {
				t.Fatalf("piece %d of %+v", i, p)
			}
			at += uint64(x.Length)
		}
		// There is one form only.
		if again, err := p.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	for _, w := range wires {
		b, err := w.m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\xdf\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("%x was taken and cannot be sent: %v", b, err)
		}
		back, err := DecodeMessage(again)
		if err != nil {
			t.Fatal(err)
		}
		third, err := back.Encode()
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%x, then %x, %v", again, third, err)
		}
		if m.Plan != nil {
			for e := range m.Plan.Twice() {
				if e.Number > 8*MaxMessage && len(m.Plan.Marks) > len(m.Plan.Recheck) && len(m.Plan.Recheck) == 0 {
					t.Fatalf("%+v is marked", e)
				}
			}
		}
		if p := m.Parcel; p != nil {
			_ = p.String()
			for _, x := range p.Pieces {
				if int64(x.Offset)+int64(x.Length) > p.Length {
					t.Fatalf("%+v lies outside %s", x, p)
				}
			}
			for _, r := range p.Runs {
				if r.Offset < p.Offset || r.Offset+r.Length > p.Offset+p.Length {
					t.Fatalf("%+v lies outside %s", r, p)
				}
			}
		}
		if m.Fault != nil {
			_ = m.Fault.Error()
			_ = m.Fault.Class.String()
		}
	})
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		err   error
		class Class
		code  string
	}{
		{store.ErrFull, Halt, "store-full"},
		{fmt.Errorf("%w: %w", store.ErrFull, syscall.ENOSPC), Halt, "store-full"},
		{syscall.ENOSPC, Halt, "disk-full"}, // a scratch file's
		{store.ErrReadOnly, Halt, "store-read-only"},
		{store.ErrNoStore, Halt, "no-store"},
		{vault.ErrDamaged, Corrupt, "damaged"},
		{os.ErrDeadlineExceeded, Halt, "vault-io"},
	} {
		cause := fmt.Errorf("write pack: %w", c.err)
		f := AsFault(fmt.Errorf("flush: %w", VaultFault("write a pack", "vault", cause)), Uploader)
		if f.Class != c.class || f.Code != c.code || f.Stage != Uploader || f.Cause != cause.Error() || f.Remedy == "" {
			t.Errorf("%v became %+v", c.err, f)
		}
		if f.Unwrap() != cause {
			t.Errorf("%v lost its cause", c.err)
		}
		if AsFault(f, Indexer).Stage != Uploader {
			t.Error("who passes a fault on is not where it happened")
		}
	}
	if f := AsFault(os.ErrInvalid, Seal); f.Class != Halt || f.Stage != Seal || f.Cause != os.ErrInvalid.Error() {
		t.Errorf("%+v", f)
	}
	names := map[Class]string{Retry: "retry", Park: "park", Corrupt: "corrupt", Halt: "halt", 200: "halt"}
	for c, want := range names {
		if c.String() != want {
			t.Errorf("class %d is %s", c, c)
		}
	}
}

func TestParcels(t *testing.T) {
	w := Work{ParcelSize: 4 << 20, Disks: []WorkDisk{{Guest: 0}, {Guest: 1}, {Guest: 0}}}
	for size, want := range map[int64]uint32{0: 0, 1: 1, 4 << 20: 1, 4<<20 + 1: 2} {
		w.Disks[1].Info.VirtualSize = size
		if got := w.Parcels(1); got != want {
			t.Errorf("a disk of %d bytes has %d parcels, want %d", size, got, want)
		}
	}
	if got := w.DisksOf(0); !reflect.DeepEqual(got, []uint32{0, 2}) {
		t.Errorf("guest 0 has disks %v", got)
	}
	p := Parcel{Disk: 1, Number: 2, Pass: 1}
	for _, q := range []Parcel{{Disk: 2, Number: 2, Pass: 1}, {Disk: 1, Number: 3, Pass: 1}, {Disk: 1, Number: 2}} {
		if p.Same(&q) {
			t.Errorf("%s is taken for %s", &p, &q)
		}
	}
	if !p.Same(&Parcel{Disk: 1, Number: 2, Pass: 1, Offset: 5, Fresh: true}) {
		t.Error("the same parcel at another stage is another")
	}
}

var exampleMark = regexp.MustCompile(`(?s)(<!-- example: go test \./flow -update -->\n).*?(<!-- end of example -->)`)

// docs/format/parcel.md shows these bytes, and names every key there is.
func TestPageIsRight(t *testing.T) {
	path := filepath.Join("..", "docs", "format", "parcel.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ex strings.Builder
	ex.WriteString("```\n")
	b, err := pieces.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&ex, "pieces    %x\n", b)
	for _, w := range wires {
		if w.name != "parcel-of-reader" && w.name != "ask" {
			continue
		}
		if b, err = w.m.Encode(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&ex, "%-9s %x\n", strings.TrimPrefix(w.name, "parcel-of-"), b)
	}
	ex.WriteString("```\n")
	got := exampleMark.ReplaceAll(text, []byte("${1}"+ex.String()+"${2}"))
	if !exampleMark.Match(text) {
		t.Fatal("no place for the example")
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(got, text) {
		t.Errorf("%s: its example is not what flow writes; go test ./flow -update", path)
	}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Message](), reflect.TypeFor[Parcel](), reflect.TypeFor[Run](), reflect.TypeFor[arena.Claim](), reflect.TypeFor[Pack](), reflect.TypeFor[Plan](),
		reflect.TypeFor[RecheckEntry](), reflect.TypeFor[Marks](), reflect.TypeFor[Ask](), reflect.TypeFor[Answer](), reflect.TypeFor[Fault](), reflect.TypeFor[Status](),
	} {
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if key == "-" {
				continue
			}
			if key == "" {
				t.Errorf("%s.%s has no name on the wire", typ.Name(), typ.Field(i).Name)
			}
			if !bytes.Contains(text, []byte("`"+key+"`")) {
				t.Errorf("%s does not name the key %q of %s", path, key, typ.Name())
			}
		}
	}
}

// A plan whose every parcel comes twice fits its message up to the largest guest.
func TestALargePlanFits(t *testing.T) {
	const parcels = 16 << 20 / 4 // of 4 MiB, on 16 TiB
	marks := Marks{Disk: 3, Bits: bytes.Repeat([]byte{0xff}, parcels/8)}
	m := Message{Plan: &Plan{Facts: make([]byte, parcels/8), Marks: []Marks{marks}}}
	b, err := m.Encode()
	if err != nil || len(b) > 2<<20 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	back, err := DecodeMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	next := uint32(0)
	for e := range back.Plan.Twice() {
		if e != (RecheckEntry{3, next}) || !back.Plan.Marks[0].Has(next) {
			t.Fatalf("%+v, not parcel %d", e, next)
		}
		next++
	}
	if next != parcels || back.Plan.Marks[0].Has(next) {
		t.Errorf("%d parcels are marked", next)
	}
}
