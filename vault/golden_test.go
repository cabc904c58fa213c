package vault

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/frame"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

var update = flag.Bool("update", false, "make testdata/vault anew and rewrite the examples in docs/format")

// The vault in testdata was made once and must open for ever. Its secrets are
// here for everyone to see.
const goldenVault = "testdata/vault"

type golden struct {
	Password string   `json:"password"`
	Recovery string   `json:"recovery"`
	Job      id.Job   `json:"job"`
	Pack     string   `json:"pack"`
	Guest    id.Guest `json:"guest"`
	Disk     id.Disk  `json:"disk"`
	Chunks   []struct {
		Codec   string   `json:"codec"`
		Chunk   id.Chunk `json:"chunk"`
		Content string   `json:"content"`
		Frame   string   `json:"frame"` // hex
	} `json:"chunks"`
}

// goldenContents are short enough for a page and long enough to compress.
func goldenContents() map[string]string {
	return map[string]string{
		"none": "a chunk stored as it is",
		"lz4":  strings.Repeat("mill ", 20),
		"s2":   strings.Repeat("race ", 20),
		"zstd": strings.Repeat("dusk ", 20),
	}
}

func makeGolden(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(goldenVault); err != nil {
		t.Fatal(err)
	}
	st, err := dir.Create(goldenVault)
	if err != nil {
		t.Fatal(err)
	}
	g := golden{Password: password, Job: testJob, Guest: diskA.Guest, Disk: diskA.Disk}
	v, recovery, err := Create(t.Context(), st, []byte(password), CreateOptions{KDF: quick(), Label: "example", Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	g.Recovery = recovery
	d := v.Config.DefaultDomain
	w, err := NewPackWriter(t.Context(), st, v.Keys, testJob, d)
	if err != nil {
		t.Fatal(err)
	}
	x := newIDs(t, v)
	contents := goldenContents()
	g.Chunks = slices.Grow(g.Chunks, len(contents))[:len(contents)]
	for i, name := range slices.Sorted(maps.Keys(contents)) {
		codec, err := NewCodec(name)
		if err != nil {
			t.Fatal(err)
		}
		c := &g.Chunks[i]
		content := []byte(contents[name])
		framed := codec.Encode(nil, content)
		c.Codec, c.Chunk, c.Content, c.Frame = name, x.ID(content), contents[name], hex.EncodeToString(framed)
		sealed, err := v.Keys.SealChunk(nil, d, c.Chunk, framed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Add(PackEntry{Chunk: c.Chunk, GuestOffset: int64(i) << 16, Raw: uint32(len(content))}, diskA, sealed); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.Pack = PackName(testJob, info.Name)
	text, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenVault+".json", append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"tmp"} { // git keeps no empty folders
		_ = os.Remove(filepath.Join(goldenVault, left))
	}
}

func readGolden(t testing.TB) golden {
	t.Helper()
	text, err := os.ReadFile(goldenVault + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// goldenStore holds the golden vault in memory, so that no test can write to it.
func goldenStore(t testing.TB) *memory {
	t.Helper()
	st := newMemory()
	err := filepath.WalkDir(goldenVault, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(goldenVault, path)
		st.objects[filepath.ToSlash(name)] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestGoldenVaultOpens(t *testing.T) {
	if *update {
		makeGolden(t)
	}
	g, st := readGolden(t), goldenStore(t)
	for _, secret := range []string{g.Password, g.Recovery} {
		v, err := Open(t.Context(), st, []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		_, base, _ := strings.Cut(strings.TrimPrefix(g.Pack, "packs/"), "/")
		var name id.Object
		if err := name.UnmarshalText([]byte(base)); err != nil {
			t.Fatal(err)
		}
		info, err := ReadPackFooter(t.Context(), st, v.Keys, g.Job, name)
		if err != nil {
			t.Fatal(err)
		}
		if len(info.Entries) != len(g.Chunks) || len(info.Disks) != 1 || info.Disks[0] != (PackDisk{g.Guest, g.Disk}) {
			t.Errorf("footer: %+v", info)
		}
		x := newIDs(t, v)
		for i, c := range g.Chunks {
			e := info.Entries[i]
			sealed := st.objects[g.Pack][e.Offset : e.Offset+e.Stored]
			got, err := v.Keys.Decode(info.Domain, c.Chunk, sealed, nil, x)
			if err != nil || string(got) != c.Content || e.Chunk != c.Chunk {
				t.Errorf("chunk %d: %q, %v", i, got, err)
			}
		}
	}
	if _, err := Open(t.Context(), st, []byte("wrong")); !errors.Is(err, ErrWrongKey) {
		t.Errorf("%v", err)
	}
}

// goldenParts is a pack of format 2 in the golden vault, kept beside it: of a chunk
// in three parts, one in one place, and one in two.
const goldenParts = "testdata/parts.pack"

func goldenPartsEntries(x *chunk.IDs) ([]PackEntry, []string) {
	contents := []string{strings.Repeat("a", 10) + strings.Repeat("b", 20) + strings.Repeat("c", 30), "whole", "12"}
	entries := []PackEntry{
		{GuestOffset: 4096, Raw: 60, Parts: []PackRange{{Offset: 4096, Length: 10}, {Offset: 8192, Length: 20}, {Offset: 1 << 40, Length: 30}}},
		{GuestOffset: 0, Raw: 5},
		{GuestOffset: 7, Raw: 2, Parts: []PackRange{{Offset: 7, Length: 1}, {Offset: 9, Length: 1}}},
	}
	for i, c := range contents {
		entries[i].Chunk = x.ID([]byte(c))
	}
	return entries, contents
}

func TestGoldenPackInParts(t *testing.T) {
	g, st := readGolden(t), goldenStore(t)
	v, err := Open(t.Context(), st, []byte(g.Password))
	if err != nil {
		t.Fatal(err)
	}
	x := newIDs(t, v)
	entries, contents := goldenPartsEntries(x)
	if *update {
		w, err := NewPartsWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
		if err != nil {
			t.Fatal(err)
		}
		none, err := NewCodec("none")
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			sealed, err := v.Keys.SealChunk(nil, v.Config.DefaultDomain, e.Chunk, none.Encode(nil, []byte(contents[i])))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Add(e, diskA, sealed); err != nil {
				t.Fatal(err)
			}
		}
		info, err := w.Close(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenParts, st.objects[PackName(testJob, info.Name)], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pack, err := os.ReadFile(goldenParts)
	if err != nil {
		t.Fatal(err)
	}
	st.objects[PackName(testJob, id.Sum(pack))] = pack
	info, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, id.Sum(pack))
	if err != nil || len(info.Entries) != len(entries) || !info.InParts {
		t.Fatalf("%+v, %v", info, err)
	}
	for i, e := range info.Entries {
		if want := entries[i]; !slices.Equal(e.Parts, want.Parts) || e.GuestOffset != want.GuestOffset {
			t.Errorf("chunk %d: %+v, want %+v", i, e, want)
		}
		got, err := v.Keys.Decode(info.Domain, e.Chunk, pack[e.Offset:e.Offset+e.Stored], nil, x)
		if err != nil || string(got) != contents[i] {
			t.Errorf("chunk %d: %q, %v", i, got, err)
		}
	}
	// What a later program writes is refused as such, before anything else is looked at.
	pack[7] = 3
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); !errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) {
		t.Errorf("format 3: %v", err)
	}
	pack[7] = 1 // the footer is bound to the header
	if _, err := ReadPackFooter(t.Context(), st, v.Keys, testJob, info.Name); !errors.Is(err, ErrDamaged) {
		t.Errorf("format 2 as 1: %v", err)
	}
}

// Frames written by earlier versions decode; what we write today may differ.
func TestGoldenFrames(t *testing.T) {
	g := readGolden(t)
	for i, c := range g.Chunks {
		framed, err := hex.DecodeString(c.Frame)
		if err != nil {
			t.Fatal(err)
		}
		if want := slices.Index([]string{"none", "lz4", "s2", "zstd"}, c.Codec); int(framed[0]) != want {
			t.Errorf("frame %d names codec %d, not %d", i, framed[0], want)
		}
		if got, err := frame.Decode(nil, framed, 100); err != nil || string(got) != c.Content {
			t.Errorf("frame of %s: %q, %v", c.Codec, got, err)
		}
	}
}

// A keyset and a ciphertext made by google/tink/go v1.7.0 (see vault/compat).
func TestTink170IsRead(t *testing.T) {
	text, err := os.ReadFile("testdata/tink-1.7.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var old struct {
		Vault  id.Vault        `json:"vault"`
		Type   ObjectType      `json:"type"`
		Name   string          `json:"name"`
		Plain  string          `json:"plain"`
		Sealed string          `json:"sealed"`
		Keyset json.RawMessage `json:"keyset"`
	}
	if err := json.Unmarshal(text, &old); err != nil {
		t.Fatal(err)
	}
	sealed, err := hex.DecodeString(old.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := json.Marshal(map[string]any{"format": 1, "vault": old.Vault, "meta": old.Keyset, "domains": []int{}})
	if err != nil {
		t.Fatal(err)
	}
	k, err := LoadGrant(grant)
	if err != nil {
		t.Fatal(err)
	}
	got, err := k.OpenMeta(nil, old.Type, []byte(old.Name), sealed)
	if err != nil || string(got) != old.Plain || len(got) == 0 {
		t.Errorf("%q, %v", got, err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := k.OpenMeta(nil, old.Type, []byte(old.Name), sealed); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	again, err := k.SealMeta(nil, old.Type, []byte(old.Name), []byte(old.Plain))
	if err != nil || bytes.Equal(again, sealed) {
		t.Errorf("sealed anew: %v", err)
	}
}
