package table

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Check says whether an object that no fact names is a table of a vault, as far as that
// can be seen: its header and trailer, which are clear, and, with the vault's keys, which
// may be nil, whether the index between them opens. vault.ErrDamaged says that it is none.
func Check(ctx context.Context, st store.Store, v id.Vault, keys *vault.Keys, e store.Entry) error {
	if e.Size < headerSize+trailerSize+vault.Overhead {
		return damaged("table of %d bytes", e.Size)
	}
	header, trailer := make([]byte, headerSize), make([]byte, trailerSize)
	if err := get(ctx, st, e.Name, 0, header); err != nil {
		return err
	}
	if err := get(ctx, st, e.Name, e.Size-trailerSize, trailer); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint16(header[6:]); string(header[:6]) == magic && n > format {
		return fmt.Errorf("table of format %d: %w", n, vault.ErrNewer)
	}
	if string(header[:6]) != magic || id.Vault(header[10:42]) != v || header[8] != kindExtents && header[8] != kindChunks || header[9] != 0 {
		return damaged("not a table of this vault")
	}
	rows, at, length, err := parseTrailer(trailer)
	if err != nil {
		return err
	}
	if rows > maxRows || at < headerSize || length > maxIndex+vault.Overhead+vault.FrameOverhead || at+int64(length)+trailerSize != e.Size {
		return damaged("trailer does not fit the table's size and rows")
	}
	if keys == nil {
		return nil
	}
	sealed := make([]byte, length)
	if err := get(ctx, st, e.Name, at, sealed); err != nil {
		return err
	}
	_, err = keys.OpenMeta(nil, vault.TypeTableIndex, indexName(header, trailer), sealed)
	return err
}
