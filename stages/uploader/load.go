package uploader

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// load is the open pack and what is in it.
type load struct {
	pack   *vault.PackWriter
	opened time.Time
	raw    int64              // bytes of its chunks
	placed map[id.Chunk]place // a twin is written once
}

type place struct{ at, stored uint32 }

func newLoad(p *vault.PackWriter, now time.Time) *load {
	return &load{pack: p, opened: now, placed: map[id.Chunk]place{}}
}

// footerRoom is more than a pack's footer needs besides its entries.
const (
	footerRoom  = 256 << 10
	footerRow   = 64
	footerRange = 12
)

// spliced reports whether the parcel has chunks in parts to be stored: they need a
// pack of the format that says where the parts belong.
func spliced(p *flow.Parcel) bool {
	for i := range p.Pieces {
		if stores(&p.Pieces[i]) && p.Pieces[i].Raw != 0 {
			return true
		}
	}
	return false
}

func stores(x *flow.Piece) bool { return x.Verdict == flow.New && !x.Zero }

// fits reports whether the pack has room for all of a parcel. One that is small
// enough for a pack of its own may not be for the rest of this one, and half a
// parcel cannot be handed on.
func (l *load) fits(p *flow.Parcel) bool {
	rows, ranges := int64(l.pack.Len()), int64(l.pack.Ranges())
	for i := range p.Pieces {
		x := &p.Pieces[i]
		if !stores(x) {
			continue
		}
		if x.From == 0 {
			rows++
		}
		if x.Raw != 0 {
			ranges++
			if !l.pack.InParts() {
				return false
			}
		}
	}
	room := rows*footerRow + ranges*footerRange + footerRoom
	return rows <= vault.MaxPackEntries && ranges <= vault.MaxPackRanges && l.pack.Size()+int64(p.Claim.Length)+room <= vault.MaxPack
}

// add writes the sealed chunks of a parcel, which lie in b, and puts their places
// in the pack into its pieces.
func (l *load) add(w *flow.Work, p *flow.Parcel, b []byte) error {
	if int(p.Disk) >= len(w.Disks) {
		return malformed(p, "the job has no such disk")
	}
	disk := w.Disks[p.Disk]
	owner := vault.PackDisk{Guest: w.Guests[disk.Guest].ID, Disk: disk.Info.Disk}
	for i := range p.Pieces {
		x := &p.Pieces[i]
		if !stores(x) {
			continue
		}
		if twin, ok := l.placed[x.Chunk]; ok {
			x.At, x.Stored = twin.at, twin.stored
			continue
		}
		if uint64(x.At)+uint64(x.Stored) > uint64(len(b)) || x.Stored == 0 {
			return malformed(p, fmt.Sprintf("a sealed piece of %d bytes at %d of %d", x.Stored, x.At, len(b)))
		}
		places, err := parts(p, i)
		if err != nil {
			return err
		}
		e := vault.PackEntry{Chunk: x.Chunk, GuestOffset: p.Offset + int64(x.Offset), Stored: x.Stored, Raw: x.Size(), Parts: places}
		at, err := l.pack.Add(e, owner, b[x.At:x.At+x.Stored])
		if err != nil {
			return flow.VaultFault("write a pack", w.Vault, err)
		}
		l.placed[x.Chunk] = place{at, x.Stored}
		x.At = at
		l.raw += int64(x.Size())
	}
	return nil
}

// parts is where the chunk of piece i, the first of it in the parcel, was read: nil
// if it was in one place. A twin of it that comes later has no say.
func parts(p *flow.Parcel, i int) (out []vault.PackRange, err error) {
	chunk, raw, next := p.Pieces[i].Chunk, p.Pieces[i].Raw, uint32(0)
	for n := i; n < len(p.Pieces) && next < raw; n++ {
		x := &p.Pieces[n]
		if !stores(x) || x.Chunk != chunk || x.Raw != raw || x.From != next {
			continue
		}
		at := p.Offset + int64(x.Offset)
		if last := len(out) - 1; last >= 0 && out[last].Offset+int64(out[last].Length) == at {
			out[last].Length += x.Length
		} else {
			out = append(out, vault.PackRange{Offset: at, Length: x.Length})
		}
		next += x.Length
	}
	if next < raw {
		return nil, malformed(p, fmt.Sprintf("only %d bytes of a splice of %d", next, raw))
	}
	if len(out) < 2 {
		return nil, nil
	}
	return out, nil
}

// close makes the pack durable.
func (l *load) close(ctx context.Context) (flow.Pack, error) {
	info, err := l.pack.Close(ctx)
	if err != nil {
		return flow.Pack{}, err
	}
	return flow.Pack{Name: info.Name, Size: info.Size, Chunks: uint32(len(info.Entries)), Raw: l.raw, Key: info.DataKey}, nil
}

func malformed(p *flow.Parcel, cause string) error {
	return &flow.Fault{Class: flow.Corrupt, Code: "bad-message", Op: "write a pack", Object: p.String(), Cause: cause, Remedy: "report this"}
}
