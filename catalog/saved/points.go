package saved

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// A copy of a point is its record once more, as an object points/<point id>, for
// the points that no snapshot holds yet: "MRPOIN" ‖ format u16 ‖ sealed frame of the
// record. Format 2 has, before the sealed frame, an Ed25519 signature over
// "millrace point copy\n", vault, point and the frame's SHA-256, so that damage shows
// without the password. Nobody reads a copy while the ledger is whole.
const (
	copyMagic  = "MRPOIN\x00\x02"
	unsigned   = "MRPOIN\x00\x01" // before there were signatures
	copySigned = "millrace point copy\n"
	copyFolder = "points/"
	maxCopy    = 16 << 20
)

func copyName(p id.Point) string { return copyFolder + p.String() }

// copyBinding is what a copy is sealed under. No part of a snapshot has a name of
// this length.
func copyBinding(v id.Vault, p id.Point) []byte {
	return append(append([]byte("millrace point"), v[:]...), p[:]...)
}

// copies brings the copies in line with a state: the points from a position on have
// one; those before, which a snapshot holds, and forgotten ones need none. A copy of a
// point that the state does not know stays: another job has just made it, or the
// ledger was set back and the copy is all that is left of it.
func copies(ctx context.Context, v *vault.Vault, s *catalog.State, from uint64) error {
	there := map[id.Point]bool{}
	for e, err := range v.Store.List(ctx, copyFolder) {
		if err != nil {
			return fmt.Errorf("list copies of points: %w", err)
		}
		var p id.Point
		if p.UnmarshalText([]byte(strings.TrimPrefix(e.Name, copyFolder))) != nil {
			continue
		}
		there[p] = true
		if known := s.Points[p]; known == nil || known.Position >= from && known.Forgotten == 0 {
			continue
		}
		if err := v.Store.Delete(ctx, e.Name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("delete copy of a point: %w", err)
		}
	}
	for _, p := range s.Points {
		if p.Position < from || p.Forgotten != 0 || there[p.Point] {
			continue
		}
		if err := putCopy(ctx, v, p); err != nil && !errors.Is(err, store.ErrExists) {
			return fmt.Errorf("put %s: %w", copyName(p.Point), err)
		}
	}
	return nil
}

func putCopy(ctx context.Context, v *vault.Vault, p *catalog.Point) error {
	// As it was committed: whoever reads a copy follows TableReplaced where it can.
	f := p.PointCommitted
	f.Disks = p.AsCommitted()
	record, err := events.EncodeRecord(events.NewRecord(p.Committed, p.Job, f))
	if err != nil {
		return err
	}
	zstd, err := vault.NewCodec("zstd")
	if err != nil {
		return err
	}
	sealed, err := v.Keys.SealMeta(nil, vault.TypeCatalog, copyBinding(v.ID, p.Point), zstd.Encode(nil, record))
	if err != nil {
		return err
	}
	signature, err := v.Keys.Sign(copyMessage(v.ID, p.Point, sealed))
	if err != nil {
		return err
	}
	b := slices.Concat([]byte(copyMagic), signature, sealed)
	return v.Store.PutNew(ctx, copyName(p.Point), int64(len(b)), bytes.NewReader(b))
}

// copyMessage is what the signature of a copy is of.
func copyMessage(v id.Vault, p id.Point, sealed []byte) []byte {
	sum := sha256.Sum256(sealed)
	return slices.Concat([]byte(copySigned), v[:], p[:], sum[:])
}

// sealedCopy reads a copy and returns what is sealed in it, of which point, and whether
// a signature says so, which holds.
func sealedCopy(ctx context.Context, cfg vault.Config, st store.Store, name string) (p id.Point, sealed []byte, signed bool, err error) {
	b, err := store.ReadAll(ctx, st, name, maxCopy)
	if errors.Is(err, store.ErrLength) {
		err = fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	if err != nil {
		return p, nil, false, err
	}
	if p.UnmarshalText([]byte(strings.TrimPrefix(name, copyFolder))) != nil {
		return p, nil, false, fmt.Errorf("not the name of a point: %w", vault.ErrDamaged)
	}
	if rest, ok := bytes.CutPrefix(b, []byte(unsigned)); ok {
		return p, rest, false, nil
	}
	rest, ok := bytes.CutPrefix(b, []byte(copyMagic))
	if !ok || len(rest) < ed25519.SignatureSize {
		return p, nil, false, fmt.Errorf("not a copy of a point: %w", vault.ErrDamaged)
	}
	signature, sealed := rest[:ed25519.SignatureSize], rest[ed25519.SignatureSize:]
	return p, sealed, true, cfg.Verify(copyMessage(cfg.ID, p, sealed), signature)
}

// CheckCopy checks a copy of a point: its signature, which needs no password, and with
// the opened vault, which may be nil, its content too. signed is false of copies that
// earlier versions wrote. vault.ErrDamaged says that it is none.
func CheckCopy(ctx context.Context, cfg vault.Config, v *vault.Vault, st store.Store, name string) (signed bool, err error) {
	_, _, signed, err = sealedCopy(ctx, cfg, st, name)
	if err == nil && v != nil {
		_, err = readCopy(ctx, v, name)
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", name, err)
	}
	return signed, err
}

func readCopy(ctx context.Context, v *vault.Vault, name string) (r events.Record, err error) {
	p, sealed, _, err := sealedCopy(ctx, v.Config, v.Store, name)
	if err != nil {
		return r, err
	}
	frame, err := v.Keys.OpenMeta(nil, vault.TypeCatalog, copyBinding(v.ID, p), sealed)
	if err != nil {
		return r, err
	}
	plain, err := vault.DecodeFrame(nil, frame, maxCopy)
	if err == nil {
		r, err = events.DecodeRecord(plain)
	}
	if err != nil && !errors.Is(err, vault.ErrDamaged) {
		err = fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	if f, ok := r.Fact.(events.PointCommitted); err == nil && (!ok || f.Point != p) {
		err = fmt.Errorf("copy of something else: %w", vault.ErrDamaged)
	}
	return r, err
}

// Points yields every point that snapshots and copies hold, for when the ledger is
// lost: a snapshot counts if it is signed and opens, whatever the ledger says and
// whichever program wrote it. A point may come more than once; Forgotten is as the
// snapshot had it. What cannot be read is an error with the object's name, and the
// iteration goes on.
func Points(ctx context.Context, v *vault.Vault) iter.Seq2[*catalog.Point, error] {
	return func(yield func(*catalog.Point, error) bool) {
		places, err := list(ctx, v.Store)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, at := range places {
			s, err := salvage(ctx, v, objectName(at))
			if err != nil {
				if !yield(nil, fmt.Errorf("read %s: %w", objectName(at), err)) {
					return
				}
				continue
			}
			for _, p := range s.Points {
				if !yield(p, nil) {
					return
				}
			}
		}
		for e, err := range v.Store.List(ctx, copyFolder) {
			if err != nil {
				yield(nil, err)
				return
			}
			r, err := readCopy(ctx, v, e.Name)
			if err != nil {
				if !yield(nil, fmt.Errorf("read %s: %w", e.Name, err)) {
					return
				}
				continue
			}
			if !yield(&catalog.Point{PointCommitted: r.Fact.(events.PointCommitted), Job: r.Job, Committed: r.Time}, nil) {
				return
			}
		}
	}
}

// salvage reads a snapshot for what it says, without asking the ledger.
func salvage(ctx context.Context, v *vault.Vault, name string) (*catalog.State, error) {
	b, err := store.ReadAll(ctx, v.Store, name, maxObject)
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(v.Config, b)
	if err != nil {
		return nil, err
	}
	return catalog.ReadImage(entries(v, h, b[signedSize:]))
}

// Copied is a copy of a point.
type Copied struct {
	Object string
	Fact   events.PointCommitted
}

// Copies yields the copies of points that there are, each by itself; one that is damaged
// comes as an error beside its name.
func Copies(ctx context.Context, v *vault.Vault) iter.Seq2[Copied, error] {
	return func(yield func(Copied, error) bool) {
		for e, err := range v.Store.List(ctx, copyFolder) {
			if err != nil {
				yield(Copied{Object: e.Name}, err)
				return
			}
			r, err := readCopy(ctx, v, e.Name)
			if errors.Is(err, store.ErrNotFound) {
				continue // a snapshot has it now
			}
			c := Copied{Object: e.Name}
			if err == nil {
				c.Fact = r.Fact.(events.PointCommitted)
			}
			if !yield(c, err) {
				return
			}
		}
	}
}
