package nbd

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

func statusOf(c *Client, what string, off, length int64) (all []Status, err error) {
	for s, err := range c.BlockStatus(context.Background(), what, off, length) {
		if err != nil {
			return all, err
		}
		all = append(all, s)
	}
	return all, nil
}

// extents is what a status chunk has: length and flags in turn.
func extents(id uint32, pairs ...uint32) []any { return []any{id, pairs} }

// A range is asked about until it is told of whole, and neighbours become one, within an
// answer and across answers.
func TestStatus(t *testing.T) {
	var asks []asked
	c := dialFake(t, HasFlags, 1, func(f fake) {
		for i := 0; ; i++ {
			a := f.request()
			asks = append(asks, a)
			rest := a.length
			f.send(chunkOf(a.cookie, wire.ChunkStatus, 0, extents(fakeOther, rest, 9)...))
			switch i {
			case 0:
				f.send(chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, extents(fakeContext, 10, 3, 20, 3, 30, 0)...))
			case 1:
				f.send(chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, extents(fakeContext, 40, 0, 50, 1)...))
			default: // the last one goes beyond what was asked for
				f.send(chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, extents(fakeContext, 1, 1, 1<<32-1, 2)...))
			}
		}
	})
	got, err := statusOf(c, Allocation, 1000, 500)
	want := []Status{{1000, 30, 3}, {1030, 70, 0}, {1100, 51, 1}, {1151, 349, 2}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if len(asks) != 3 || asks[1].off != 1060 || asks[1].length != 440 || asks[2].off != 1150 {
		t.Errorf("asked %v", asks)
	}
	if got, err = statusOf(c, "other", 5, 7); err != nil || !reflect.DeepEqual(got, []Status{{5, 7, 9}}) {
		t.Errorf("the other context: %v, %v", got, err)
	}
	if got, err = statusOf(c, Allocation, fakeSize, 0); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for _, r := range [][2]int64{{-1, 5}, {0, -1}, {0, fakeSize + 1}, {1 << 62, 1 << 62}} {
		if _, err = statusOf(c, Allocation, r[0], r[1]); err == nil {
			t.Errorf("%v is told of", r)
		}
	}
	var missing *MissingContextError
	if _, err = statusOf(c, "third", 0, 5); !errors.As(err, &missing) || missing.Contexts[0] != "third" {
		t.Error(err)
	}
}

// Where requests must be whole blocks, they are, and the answer is what was wanted.
func TestStatusBlocks(t *testing.T) {
	c := dialFake(t, HasFlags, 4096, func(f fake) {
		for {
			a := f.request()
			if a.off%4096 != 0 || a.length%4096 != 0 {
				f.send(simple(a.cookie, EINVAL))
				continue
			}
			f.send(chunkOf(a.cookie, wire.ChunkStatus, 0, extents(fakeOther, a.length, 9)...),
				chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, extents(fakeContext, 4096, uint32(a.off/4096))...))
		}
	})
	got, err := statusOf(c, Allocation, 5000, 8000)
	if want := []Status{{5000, 3192, 1}, {8192, 4096, 2}, {12288, 712, 3}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestStatusReplies(t *testing.T) {
	other := joined(extents(fakeOther, 4096, 0)...)
	for name, c := range map[string]struct {
		chunks []any // bytes: a status chunk; Errno: a refusal
		err    error
	}{
		"nothing":            {[]any{other}, ErrProtocol},
		"no extents":         {[]any{joined(uint32(fakeContext))}, ErrProtocol},
		"half an extent":     {[]any{joined(uint32(fakeContext), uint32(4096))}, ErrProtocol},
		"an empty extent":    {[]any{joined(extents(fakeContext, 100, 0, 0, 1, 100, 0)...)}, ErrProtocol},
		"beyond the request": {[]any{joined(extents(fakeContext, 4096, 0, 1, 1)...)}, ErrProtocol},
		"too far at once":    {[]any{joined(extents(fakeContext, 1<<32-1, 0, 1, 1)...)}, ErrProtocol},
		"an unknown context": {[]any{joined(extents(99, 4096, 0)...)}, ErrProtocol},
		"twice":              {[]any{joined(extents(fakeContext, 4096, 0)...), joined(extents(fakeContext, 4096, 0)...)}, ErrProtocol},
		"the other twice":    {[]any{other, other}, ErrProtocol},
		"and an unknown one": {[]any{joined(extents(99, 4096, 0)...), joined(extents(fakeContext, 4096, 0)...)}, ErrProtocol},
		"too many":           {[]any{joined(uint32(fakeOther), make([]byte, 8*(maxExtents+1))), joined(extents(fakeContext, 4096, 0)...)}, ErrProtocol},
		"refused":            {[]any{EIO}, EIO},
		"refused after some": {[]any{joined(extents(fakeContext, 100, 0)...), EOVERFLOW}, EOVERFLOW},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := dialFake(t, HasFlags, 1, func(f fake) {
				a := f.request()
				for i, p := range c.chunks {
					kind, flags := uint16(wire.ChunkStatus), uint16(0)
					if n, ok := p.(Errno); ok {
						kind, p = wire.ChunkError, joined(uint32(n), uint16(0))
					}
					if i == len(c.chunks)-1 {
						flags = wire.ChunkDone
					}
					f.send(chunkOf(a.cookie, kind, flags, p))
				}
				f.request()
			})
			got, err := statusOf(client, Allocation, 0, 4096)
			if !errors.Is(err, c.err) || len(got) > 0 {
				t.Errorf("%v, %v; want %v", got, err, c.err)
			}
		})
	}
}

// A server that tells of a byte at a time is not listened to for ever.
func TestStatusBytewise(t *testing.T) {
	c := dialFake(t, HasFlags, 1, func(f fake) {
		for n := uint32(0); ; n++ {
			a := f.request()
			f.send(chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, extents(fakeContext, 1, n%2)...))
		}
	})
	got, err := statusOf(c, Allocation, 0, fakeSize)
	if !errors.Is(err, ErrProtocol) || len(got) > freeReplies+10 {
		t.Errorf("%d, %v", len(got), err)
	}
}

// Only what is said to be zeros is.
func TestImageKinds(t *testing.T) {
	c := dialFake(t, HasFlags, 1, func(f fake) {
		for {
			a := f.request()
			f.send(chunkOf(a.cookie, wire.ChunkStatus, wire.ChunkDone, extents(fakeContext, 100, 0, 100, Hole, 100, Zero, 100, Hole|Zero, 100, 4, fakeSize, Zero|8)...))
		}
	})
	got, err := vdisktest.Collect(Image{c}.Extents(t.Context(), 0, fakeSize))
	want := []vdisk.Extent{{Length: 200, Kind: vdisk.Data}, {Offset: 200, Length: 200, Kind: vdisk.Zero},
		{Offset: 400, Length: 100, Kind: vdisk.Data}, {Offset: 500, Length: fakeSize - 500, Kind: vdisk.Zero}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// What is written goes as it is, and nothing is asked that the export cannot do.
func TestWrites(t *testing.T) {
	type did struct {
		asked
		p string
	}
	var all []did
	c := dialFake(t, HasFlags|CanFlush|CanTrim|CanZero, 512, func(f fake) {
		for {
			a := f.request()
			d := did{a, ""}
			if a.kind == wire.CmdWrite {
				d.p = string(f.read(int(a.length)))
			}
			d.cookie = 0
			all = append(all, d)
			f.send(simple(a.cookie, 0))
		}
	})
	x := strings.Repeat("x", 512)
	long := bytes.Repeat([]byte("long"), 64<<8) // 64 KiB is the limit
	n, err := c.WriteAt([]byte(x), 1024)
	m, err2 := c.Write(append(long, x...), 0, FUA) // which it cannot: it is flushed
	if err != nil || n != 512 || err2 != nil || m != 64<<10+512 {
		t.Error(n, err, m, err2)
	}
	if err := errors.Join(c.WriteZeroes(512, fakeSize-512, NoHole), c.Trim(0, 1024), c.WriteZeroes(0, 512, FUA)); err != nil {
		t.Error(err)
	}
	want := []did{{asked{0, wire.CmdWrite, 0, 1024, 512}, x}, {asked{0, wire.CmdWrite, 0, 0, 64 << 10}, string(long)}, {asked{0, wire.CmdWrite, 0, 64 << 10, 512}, x}, {asked{0, wire.CmdFlush, 0, 0, 0}, ""},
		{asked{2, wire.CmdZeroes, 0, 512, fakeSize - 512}, ""}, {asked{0, wire.CmdTrim, 0, 0, 1024}, ""}, {asked{0, wire.CmdZeroes, 0, 0, 512}, ""}, {asked{0, wire.CmdFlush, 0, 0, 0}, ""}}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("%.300v", all)
	}
	for name, c := range map[string]struct{ got, want error }{
		"inside a block":   {second(c.WriteAt([]byte(x), 1)), EINVAL},
		"part of a block":  {c.Trim(0, 100), EINVAL},
		"past the end":     {second(c.WriteAt([]byte(x), fakeSize)), ENOSPC},
		"before the start": {c.WriteZeroes(-512, 512, 0), ENOSPC},
		"far too much":     {c.Trim(512, 1<<63-512), ENOSPC},
		"fast zeros":       {c.WriteZeroes(0, 512, FastZero), ENOTSUP},
		"a flag of others": {second(c.Write([]byte(x), 0, NoHole)), EINVAL},
		"an unknown flag":  {c.WriteZeroes(0, 512, 1<<9), EINVAL},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", name, c.got)
		}
	}
	if len(all) != len(want) {
		t.Error("what cannot be was asked for")
	}
	c = dialFake(t, HasFlags|ReadOnly|CanFlush, 1, func(f fake) { f.request() })
	if err := second(c.WriteAt([]byte(x), 0)); !errors.Is(err, EPERM) {
		t.Error(err)
	}
	if err := c.Trim(0, 1); !errors.Is(err, EPERM) {
		t.Error(err)
	}
	c = dialFake(t, HasFlags, 1, func(f fake) { f.request() })
	if err := second(c.Write([]byte(x), 0, FUA)); !errors.Is(err, ENOTSUP) {
		t.Error(err)
	}
	if err := c.Flush(); !errors.Is(err, ENOTSUP) {
		t.Error(err)
	}
}

func second(_ int, err error) error { return err }
