package seal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/arena"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStage(t *testing.T, codec string) *stage {
	t.Helper()
	st, err := dir.Open(t.TempDir())
	must(t, err)
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	v, _, err := vault.Create(t.Context(), st, []byte("pw"), vault.CreateOptions{KDF: kdf})
	must(t, err)
	idKey, err := v.Keys.IDKey(v.Config.DefaultDomain)
	must(t, err)
	s := &stage{keys: v.Keys, ids: chunk.NewIDs(idKey), domain: v.Config.DefaultDomain, twins: map[id.Chunk]int{}}
	s.codec, err = vault.NewCodec(codec)
	must(t, err)
	return s
}

// cut makes a parcel of raw as chunker and delta would, with pieces of n bytes.
func (s *stage) cut(raw []byte, n int) *flow.Parcel {
	p := &flow.Parcel{Length: int64(len(raw))}
	for at := 0; at < len(raw); at += n {
		b := raw[at:min(at+n, len(raw))]
		x := flow.Piece{Offset: uint32(at), Length: uint32(len(b)), Verdict: flow.New, Zero: len(bytes.Trim(b, "\x00")) == 0}
		if !x.Zero {
			x.Chunk = s.ids.ID(b)
		}
		p.Pieces = append(p.Pieces, x)
	}
	return p
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestWhatIsSealedOpensAgain, with every codec: new pieces lie back to back in
// the slot, nothing else does, and a fresh reader gets the bytes back.
func TestWhatIsSealedOpensAgain(t *testing.T) {
	raw := append(noise(1, 300<<10), make([]byte, 64<<10)...)
	raw = append(raw, bytes.Repeat([]byte("the guest wrote a line\n"), 10_000)...)
	raw = append(raw, raw[:64<<10]...) // twins
	for _, codec := range []string{"auto", "minlz", "lz4", "s2", "zstd", "none"} {
		t.Run(codec, func(t *testing.T) {
			s := newStage(t, codec)
			slot := make([]byte, arena.SealedSize(len(raw)))
			for range 2 { // a worker's buffers are used again
				p := s.cut(raw, 32<<10)
				p.Pieces[2].Verdict, p.Pieces[3].Verdict = flow.Known, flow.Unchanged
				used, err := s.parcel(p, raw, slot)
				must(t, err)
				end := uint32(0)
				at := map[id.Chunk]uint32{}
				for i, x := range p.Pieces {
					if x.Zero || x.Verdict != flow.New {
						if x.Stored != 0 {
							t.Errorf("piece %d was sealed", i)
						}
						continue
					}
					if first, twin := at[x.Chunk]; twin {
						if x.At != first {
							t.Errorf("piece %d was sealed twice", i)
						}
					} else if x.At != end {
						t.Errorf("piece %d is at %d, not %d", i, x.At, end)
					} else {
						at[x.Chunk], end = x.At, x.At+x.Stored
					}
					plain, err := s.keys.Decode(s.domain, x.Chunk, slot[x.At:x.At+x.Stored], nil, s.ids)
					if err != nil || !bytes.Equal(plain, raw[x.Offset:x.Offset+x.Length]) {
						t.Errorf("piece %d: %v", i, err)
					}
				}
				if int(end) != used {
					t.Errorf("%d bytes used, pieces end at %d", used, end)
				}
			}
		})
	}
}

// TestIncompressibleFitsASlot: the slot's size is for the worst a cutter gives,
// data blocks between shortest zero runs, and chunks of the least length.
func TestIncompressibleFitsASlot(t *testing.T) {
	s := newStage(t, "auto")
	for name, raw := range map[string][]byte{"noise": noise(2, 4<<20), "islands": islands(4 << 20)} {
		n := 16 << 10
		if name == "islands" {
			n = 4 << 10
		}
		slot := make([]byte, arena.SealedSize(len(raw)))
		if _, err := s.parcel(s.cut(raw, n), raw, slot); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// islands has a block of noise after each 16 KiB of zeros.
func islands(size int) []byte {
	b := noise(3, size)
	for at := 0; at+20<<10 <= size; at += 20 << 10 {
		clear(b[at : at+16<<10])
	}
	return b
}

// TestNothingWrongLeaves: bytes that are not those that were named, a slot that
// is too small, a piece beyond the end: a fault that stops the job.
func TestNothingWrongLeaves(t *testing.T) {
	raw := noise(4, 64<<10)
	for name, c := range map[string]struct {
		spoil func(p *flow.Parcel, raw []byte) []byte
		slot  int
	}{
		"a flipped bit":      {func(_ *flow.Parcel, raw []byte) []byte { raw[40<<10] ^= 4; return raw }, 128 << 10},
		"another's bytes":    {func(_ *flow.Parcel, raw []byte) []byte { return noise(5, len(raw)) }, 128 << 10},
		"too few bytes":      {func(_ *flow.Parcel, raw []byte) []byte { return raw[:len(raw)-1] }, 128 << 10},
		"no bytes":           {func(*flow.Parcel, []byte) []byte { return nil }, 128 << 10},
		"a piece that wraps": {func(p *flow.Parcel, raw []byte) []byte { p.Pieces[1].Offset = ^uint32(0); return raw }, 128 << 10},
		"a slot too small":   {func(_ *flow.Parcel, raw []byte) []byte { return raw }, 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, "auto")
			p := s.cut(raw, 16<<10)
			memory := noise(6, c.slot+4096)
			_, err := s.parcel(p, c.spoil(p, bytes.Clone(raw)), memory[:c.slot])
			var f *flow.Fault
			if !errors.As(err, &f) || f.Class != flow.Corrupt {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(memory[c.slot:], noise(6, c.slot+4096)[c.slot:]) {
				t.Error("the next slot was written to")
			}
		})
	}
}

// TestWithoutTheKey: not an accusation of the memory.
func TestWithoutTheKey(t *testing.T) {
	s := newStage(t, "auto")
	raw := noise(7, 4096)
	p := s.cut(raw, 4096)
	s.domain = id.Domain{9}
	_, err := s.parcel(p, raw, make([]byte, 8192))
	var f *flow.Fault
	if err == nil || errors.As(err, &f) {
		t.Errorf("got %v", err)
	}
}
