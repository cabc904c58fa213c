package events

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/millrace-backup/millrace/id"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/format/facts.md")

// sample fills every field of a fact with a value of its own that is not zero,
// so that no field can be forgotten by the codec or swapped with another.
func sample(t testing.TB, kind string) Fact {
	t.Helper()
	zero, err := decodeFact(kind, []byte{0x80})
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.New(reflect.TypeOf(zero)).Elem()
	n := 0
	fillIn(t, v, &n)
	return v.Interface().(Fact)
}

func fillIn(t testing.TB, v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n) * 1001)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n) * 1001)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(byte(*n + i)))
		}
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		for _, k := range []string{"zulu", "alpha", "mike"} {
			m.SetMapIndex(reflect.ValueOf(k), reflect.ValueOf(fmt.Sprintf("%s %d", k, *n)))
		}
		v.Set(m)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{byte(*n), 0, 255})
			return
		}
		s := reflect.MakeSlice(v.Type(), 2, 2)
		for i := range 2 {
			fillIn(t, s.Index(i), n)
		}
		v.Set(s)
	case reflect.Struct:
		for i := range v.NumField() {
			fillIn(t, v.Field(i), n)
		}
	default:
		t.Fatalf("no sample value for %s: facts hold plain values", v.Type())
	}
}

func sampleRecord(t testing.TB, kind string) Record {
	now := time.Date(2026, 11, 22, 16, 7, 15, 123456789, time.FixedZone("", 3600))
	return NewRecord(now, id.Job{0x01, 0x93, 15: 7}, sample(t, kind))
}

// The golden files are the wire form of every fact; a difference means that
// vaults already written would be read differently.
func TestEveryFactHasItsGoldenForm(t *testing.T) {
	known := map[string]bool{}
	for _, kind := range Kinds() {
		known[kind+".golden"] = true
		r := sampleRecord(t, kind)
		wire, err := EncodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.MarshalIndent(r.Fact, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		got := kind + " " + string(text) + "\n\n" + hex.Dump(wire)
		path := filepath.Join("testdata", kind+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s changed its wire form; add fields, never change them (-golden +now):\n%s", kind, diff)
		}
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("%s is the form of no known fact", f)
		}
	}
}

func TestEveryFactRoundTrips(t *testing.T) {
	for _, kind := range Kinds() {
		in := sampleRecord(t, kind)
		body, err := EncodeRecords([]Record{in, in})
		if err != nil {
			t.Fatal(err)
		}
		out, err := DecodeRecords(body)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if len(out) != 2 || out[1].Raw == nil {
			t.Fatalf("%s: got %d records", kind, len(out))
		}
		got := out[1]
		got.Raw = nil
		if diff := cmp.Diff(in, got); diff != "" {
			t.Errorf("%s (-written +read):\n%s", kind, diff)
		}
		if in.Kind != kind || in.Fact.Kind() != kind || reflect.TypeOf(in.Fact).Name() != kind {
			t.Errorf("%s goes out as %s", kind, in.Fact.Kind())
		}
		again, err := EncodeRecords(out)
		if err != nil || !bytes.Equal(again, body) {
			t.Errorf("%s: encoding the decoded record gives other bytes (%v)", kind, err)
		}
	}
}

func TestAFactDependsOnNoMapOrder(t *testing.T) {
	want, err := EncodeRecord(sampleRecord(t, "JobStarted"))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if got, _ := EncodeRecord(sampleRecord(t, "JobStarted")); !bytes.Equal(got, want) {
			t.Fatal("equal facts have different bytes")
		}
	}
}

func TestALaterProgramsFactsSurvive(t *testing.T) {
	job := id.Job{5}
	later := []any{"GuestTeleported", 1234567, job, map[string]any{"guest": "x", "where": []int{1, 2}}}
	wider := []any{"PackStored", 1234567, job, map[string]any{"size": 77, "colour": "blue"}, "a fifth part"}
	body, err := Marshal([]any{later, wider})
	if err != nil {
		t.Fatal(err)
	}
	records, err := DecodeRecords(body)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := records[0].Fact.(Unknown); !ok || u.Kind() != "GuestTeleported" || records[0].Job != job {
		t.Errorf("unknown kind: got %#v", records[0])
	}
	if p, ok := records[1].Fact.(PackStored); !ok || p.Size != 77 {
		t.Errorf("unknown field: got %#v", records[1])
	}
	fields, err := records[1].Fields()
	if err != nil || fields["colour"] != "blue" {
		t.Errorf("the unknown field is not shown: %v %v", fields, err)
	}
	again, err := EncodeRecords(records)
	if err != nil || !bytes.Equal(again, body) {
		t.Errorf("copied records differ: %v\n%x\n%x", err, body, again)
	}
	// Even without Raw an unknown fact keeps its body.
	records[0].Raw = nil
	if one, err := EncodeRecord(records[0]); err != nil || !bytes.Contains(body, one) {
		t.Errorf("unknown fact was not written as it was: %v %x", err, one)
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 11, 22, 16, 7, 15, 123456789, time.FixedZone("", -7200))
	m := At(now)
	if got := m.String(); got != "2026-11-22T18:07:15.123456Z" {
		t.Errorf("got %s", got)
	}
	if !m.Time().Equal(now.Truncate(time.Microsecond)) || m.Time().Location() != time.UTC {
		t.Errorf("got %v", m.Time())
	}
	if At(time.Time{}) != 0 || !Micros(0).Time().IsZero() {
		t.Error("the zero time is not kept")
	}
}

// bomb makes msgpack/v5 5.4.1 allocate 8 GiB for a struct with a slice field:
// {"s": array of 0xffffffff/8 strings-to-be}.
func bomb() []byte {
	return append([]byte{0x81, 0xa4, 's', 'e', 't', 's', 0xdd, 0x1f, 0xff, 0xff, 0xff}, 0xc0, 0xc0)
}

func TestBombsAreRefused(t *testing.T) {
	type target struct {
		Sets []SetDefined   `json:"sets"`
		Any  any            `json:"any"`
		Map  map[string]int `json:"map"`
	}
	deep := bytes.Repeat([]byte{0x91}, 40)
	many := append([]byte{0x81, 0xa4, 's', 'e', 't', 's', 0xdd, 0, 0x10, 0, 0}, bytes.Repeat([]byte{0xc0}, 1<<20)...)
	for name, b := range map[string][]byte{
		"thirteen bytes":     bomb(),
		"array of any":       {0x81, 0xa3, 'a', 'n', 'y', 0xdd, 0xff, 0xff, 0xff, 0xff},
		"map":                {0x81, 0xa3, 'm', 'a', 'p', 0xdf, 0xff, 0xff, 0xff, 0xff},
		"map of half":        {0x81, 0xa3, 'm', 'a', 'p', 0x83, 0xc0, 0xc0, 0xc0, 0xc0},
		"string":             {0xdb, 0xff, 0xff, 0xff, 0xff, 'x'},
		"bytes":              {0xc6, 0xff, 0xff, 0xff, 0xff, 'x'},
		"ext":                {0xc9, 0xff, 0xff, 0xff, 0xff, 1},
		"fixed ext":          {0xd8, 1, 2, 3},
		"reserved code":      {0xc1},
		"too deep":           append(deep, 0xc0),
		"a million structs":  many,
		"trailing bytes":     {0x80, 0x80},
		"nothing":            {},
		"cut off number":     {0xcf, 1, 2},
		"longer than it may": append([]byte{0xc6, 1, 0, 0, 0}, make([]byte, 1<<24)...),
	} {
		var v target
		if err := Unmarshal(b, &v); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
		if _, err := DecodeRecords(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s as records: got %v, want ErrMalformed", name, err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(bomb())
	for _, kind := range Kinds() {
		if b, err := Marshal(sample(f, kind)); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := Walk(b)
		if err == nil {
			// The library agrees on where a value ends.
			r := bytes.NewReader(b)
			if err := msgpack.NewDecoder(r).Skip(); err == nil && len(b)-r.Len() != n {
				t.Fatalf("walked %d bytes, msgpack skips %d", n, len(b)-r.Len())
			}
		}
		var p PointCommitted
		_ = Unmarshal(b, &p)
		var j JobStarted
		_ = Unmarshal(b, &j)
		var a any
		_ = Unmarshal(b, &a)
	})
}

func FuzzDecodeRecords(f *testing.F) {
	for _, kind := range Kinds() {
		if b, err := EncodeRecords([]Record{sampleRecord(f, kind)}); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := DecodeRecords(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		again, err := EncodeRecords(records)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeRecords(again)
		if err != nil || len(back) != len(records) {
			t.Fatalf("%d records became %d: %v", len(records), len(back), err)
		}
		for i, r := range records {
			_, _ = r.Fields()
			_ = strings.ToValidUTF8(r.Kind, "?")
			if !bytes.Equal(r.Raw, back[i].Raw) {
				t.Fatalf("record %d changed", i)
			}
		}
	})
}

// A point of a machine with as many files in its tree as are taken, and with as many
// disks as Hyper-V gives one, each of as many layers as there may be, can be read.
func TestAPointOfManyFilesCanBeRead(t *testing.T) {
	ref := TableRef{Name: id.Object{1}, Job: id.Job{2}, UID: UID{3}, Size: 1 << 40, Rows: 1 << 40, Root: Hash{4}}
	var p PointCommitted
	for range 800 + 260 {
		d := PointDisk{Disk: id.Disk{1}, Key: "k", File: "f", Carried: true}
		for range 8 {
			d.Extents, d.Chunks = append(d.Extents, ref), append(d.Chunks, ref)
		}
		p.Disks = append(p.Disks, d)
	}
	b, err := Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back PointCommitted
	if err := Unmarshal(b, &back); err != nil || len(back.Disks) != len(p.Disks) {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	if got := len(back.MachineDisks()); got != 0 {
		t.Errorf("%d disks of a machine", got)
	}
}

// A set that was defined before sources, excludes and disks were is read as one without.
func TestSetsOfTheFirstFormAreRead(t *testing.T) {
	text, err := os.ReadFile("testdata/SetDefined.first")
	if err != nil {
		t.Fatal(err)
	}
	_, dump, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		t.Fatal("there is no dump in it")
	}
	var wire []byte
	for line := range strings.Lines(dump) {
		if len(line) < 10 {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(strings.SplitN(line[10:], "|", 2)[0], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		wire = append(wire, b...)
	}
	r, err := DecodeRecord(wire)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := r.Fact.(SetDefined)
	if !ok || len(f.Selectors) != 2 || len(f.Retention) != 3 || !f.Removed || f.By == "" || f.Sources != nil || f.Excludes != nil || f.Disks != nil || f.ExcludeDisks != nil {
		t.Errorf("%+v", r.Fact)
	}
}
