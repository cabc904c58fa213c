package primitives

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

// kit is a vault to work with, and the image.
type kit struct {
	vault   *vault.Vault
	job     id.Job
	image   *open.Disk
	parcels []parcel
	bytes   int64 // of all runs
}

// parcel is a cell that holds data.
type parcel struct {
	offset, length int64
	runs           []vdisk.Extent
}

func newKit(ctx context.Context, image, folder string) (*kit, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	st, err := dir.Open(folder)
	if err != nil {
		return nil, err
	}
	// What the password costs is not measured here.
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	k := &kit{}
	if k.vault, _, err = vault.Create(ctx, st, []byte(rand.Text()), vault.CreateOptions{KDF: kdf}); err != nil {
		return nil, err
	}
	if k.image, err = open.Path(image, open.Options{}); err != nil {
		return nil, err
	}
	err = k.plan(ctx)
	if err == nil && len(k.parcels) == 0 {
		err = fmt.Errorf("%s holds no data", image)
	}
	if err != nil {
		return nil, errors.Join(err, k.image.Close())
	}
	return k, nil
}

// plan finds the cells that hold data, as snapshot does.
func (k *kit) plan(ctx context.Context) error {
	cell := k.vault.Config.CellSize
	for e, err := range k.image.Extents(ctx, 0, k.image.Size()) {
		if err != nil {
			return err
		}
		for at := e.Offset; e.Kind != vdisk.Zero && at < e.End(); {
			from := at / cell * cell
			if n := len(k.parcels); n == 0 || k.parcels[n-1].offset != from {
				k.parcels = append(k.parcels, parcel{offset: from, length: min(cell, k.image.Size()-from)})
			}
			p := &k.parcels[len(k.parcels)-1]
			end := min(e.End(), from+cell)
			p.runs = append(p.runs, vdisk.Extent{Offset: at, Length: end - at})
			k.bytes += end - at
			at = end
		}
	}
	return nil
}

// readSize is reader's.
const readSize = 1 << 20

// read does what reader does for a parcel.
func (k *kit) read(p *parcel, mem []byte) error {
	at := int64(0)
	for _, r := range p.runs {
		from := r.Offset - p.offset
		clear(mem[at:from])
		for b, off := mem[from:from+r.Length], r.Offset; len(b) > 0; {
			n := min(len(b), readSize)
			if got, err := k.image.ReadAt(b[:n], off); got < n && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read %d bytes at %d: %w", n, off, err)
			}
			b, off = b[n:], off+int64(n)
		}
		at = from + r.Length
	}
	clear(mem[at:p.length])
	return nil
}

// hand is what one thread works with.
type hand struct {
	*kit
	domain id.Domain
	cutter chunk.Cutter
	ids    *chunk.IDs
	blocks *chunk.Blocks
	pack   *vault.PackWriter
	stored int64
}

func (k *kit) newHand() (*hand, error) {
	h := &hand{kit: k, domain: k.vault.Config.DefaultDomain}
	d, _ := k.vault.Config.Domain(h.domain)
	cutKey, err := k.vault.Keys.CutKey(h.domain)
	if err != nil {
		return nil, err
	}
	idKey, err := k.vault.Keys.IDKey(h.domain)
	if err != nil {
		return nil, err
	}
	if h.cutter, err = chunk.New(d.Cutter, cutKey); err != nil {
		return nil, err
	}
	h.ids = chunk.NewIDs(idKey)
	h.blocks, err = chunk.NewBlocks(idKey, int(d.Cutter.Block))
	return h, err
}

// add writes a sealed chunk into the open pack, beginning one if need be.
func (h *hand) add(ctx context.Context, c id.Chunk, at int64, raw uint32, sealed []byte) (err error) {
	if h.pack == nil {
		if h.pack, err = vault.NewPackWriter(ctx, h.vault.Store, h.vault.Keys, h.job, h.domain); err != nil {
			return err
		}
	}
	if _, err = h.pack.Add(vault.PackEntry{Chunk: c, GuestOffset: at, Raw: raw}, vault.PackDisk{}, sealed); err != nil {
		return err
	}
	if h.pack.Size() < packSize {
		return nil
	}
	return h.flush(ctx)
}

// packSize is uploader's.
const packSize = 32 << 20

// flush makes the open pack durable.
func (h *hand) flush(ctx context.Context) error {
	if h.pack == nil {
		return nil
	}
	info, err := h.pack.Close(ctx)
	h.stored += info.Size
	h.pack = nil
	return err
}

// fresh gives the kit another job, whose packs are its own.
func (k *kit) fresh() { k.job = id.NewJob() }

// sweep removes the packs: deleting is not part of what is measured.
func (k *kit) sweep(folder string) error {
	return os.RemoveAll(filepath.Join(folder, "packs", k.job.String()))
}
