package saved

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// A copy of a point is its record once more, as an object points/<point id>, for
// the points that no snapshot holds yet: "MRPOIN" ‖ format u16 ‖ sealed frame of the
// record. Nobody reads it while the ledger is whole.
const (
	copyMagic  = "MRPOIN\x00\x01"
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
	record, err := events.EncodeRecord(events.NewRecord(p.Committed, p.Job, p.PointCommitted))
	if err != nil {
		return err
	}
	zstd, err := vault.NewCodec("zstd")
	if err != nil {
		return err
	}
	b, err := v.Keys.SealMeta([]byte(copyMagic), vault.TypeCatalog, copyBinding(v.ID, p.Point), zstd.Encode(nil, record))
	if err != nil {
		return err
	}
	return v.Store.PutNew(ctx, copyName(p.Point), int64(len(b)), bytes.NewReader(b))
}

func readCopy(ctx context.Context, v *vault.Vault, name string) (r events.Record, err error) {
	b, err := store.ReadAll(ctx, v.Store, name, maxCopy)
	if errors.Is(err, store.ErrLength) {
		err = fmt.Errorf("%w: %w", vault.ErrDamaged, err)
	}
	if err != nil {
		return r, err
	}
	var p id.Point
	if !bytes.HasPrefix(b, []byte(copyMagic)) || p.UnmarshalText([]byte(strings.TrimPrefix(name, copyFolder))) != nil {
		return r, fmt.Errorf("not a copy of a point: %w", vault.ErrDamaged)
	}
	frame, err := v.Keys.OpenMeta(nil, vault.TypeCatalog, copyBinding(v.ID, p), b[len(copyMagic):])
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
