package id

import (
	"encoding/json"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// The forms below are on disk in every vault; changing one needs an ADR.
func TestFormsAreFixed(t *testing.T) {
	v := Vault{1, 2, 3}
	g := NewGuest(v, "/srv/guest.vhdx")
	if got, want := g.String(), "f47856c8-7a29-513c-9d6d-32f7028a192d"; got != want {
		t.Errorf("guest id of a path: got %s, want %s", got, want)
	}
	d := NewDisk(g, "guest.vhdx")
	if got, want := d.String(), "67a376aa-4b4d-5db7-8e8f-7bc05bb88e5e"; got != want {
		t.Errorf("disk id: got %s, want %s", got, want)
	}
	if got, want := NewPoint(Job{9}, g).String(), "a6ed1e9b4c1667c59c6a305e5e8a2b64"; got != want {
		t.Errorf("point id: got %s, want %s", got, want)
	}
}

func TestBothFormsRoundTrip(t *testing.T) {
	type all struct {
		V Vault
		J Job
		P Point
		G Guest
		D Disk
		C Chunk
		O Object
		K Key
		M Domain
	}
	in := all{V: Vault{1}, J: NewJob(), P: Point{3}, G: Guest{4}, D: Disk{5}, C: Chunk{6}, O: Sum([]byte("x")), K: NewKey(), M: NewDomain()}
	var viaJSON, viaMsgpack all
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &viaJSON); err != nil || viaJSON != in {
		t.Fatalf("json: %v\n%s", err, text)
	}
	wire, err := msgpack.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := msgpack.Unmarshal(wire, &viaMsgpack); err != nil || viaMsgpack != in {
		t.Fatalf("msgpack: %v\n%x", err, wire)
	}
	if len(wire) > 260 {
		t.Errorf("msgpack form has %d bytes: ids are not going out as bytes", len(wire))
	}
}

func TestWrongLengthsAreRefused(t *testing.T) {
	var c Chunk
	for _, bad := range []string{"", "00", "zz", c.String() + "00"} {
		if c.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("text %q was taken as a chunk id", bad)
		}
		if c.UnmarshalBinary([]byte(bad)) == nil {
			t.Errorf("bytes %q were taken as a chunk id", bad)
		}
	}
}

func TestJobsSortByTime(t *testing.T) {
	last := NewJob()
	for range 1000 {
		next := NewJob()
		if next.String() <= last.String() {
			t.Fatalf("%s does not sort after %s", next, last)
		}
		last = next
	}
}
