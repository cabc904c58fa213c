package main

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// point GUEST FILE... commits a point of a guest with these raw disks to the
// vault of the script: what a job does, in one loop, so that the commands that
// read can be tested by themselves.
func point(ts *testscript.TestScript, neg bool, args []string) {
	ctx := context.Background()
	st, err := dir.Open(ts.Getenv("MILLRACE_VAULT"))
	ts.Check(err)
	v, err := vault.Open(ctx, st, []byte("correct horse"))
	ts.Check(err)
	l, err := ledger.Open(ctx, v, ledger.Options{Now: time.Now})
	ts.Check(err)
	job, guest := id.NewJob(), id.NewGuest(v.ID, args[0])
	fact := events.PointCommitted{Point: id.NewPoint(job, guest), Guest: guest, GuestName: args[0], Driver: "folder", Source: "folder:" + args[0],
		Time: events.At(time.Now()), Consistency: "offline", Scan: "full", ScanReason: "first backup", Config: []byte("<machine/>"),
		Unprotected: []events.Unprotected{{Key: "raw.dev", Reason: "pass-through device"}}}
	var refs []ledger.ObjectRef
	for _, name := range args[1:] {
		text, err := os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
		d, in, err := storeDisk(ctx, v, job, guest, filepath.Base(name), text)
		ts.Check(err)
		fact.Disks, refs = append(fact.Disks, d), append(refs, in...)
		fact.DiskBytes += d.Size
	}
	_, err = l.Append(ctx, job, []events.Fact{fact}, refs, nil)
	ts.Check(err)
	_, err = l.Checkpoint(ctx)
	ts.Check(err)
}

// storeDisk puts one disk into one pack, with its tables.
func storeDisk(ctx context.Context, v *vault.Vault, job id.Job, guest id.Guest, key string, content []byte) (events.PointDisk, []ledger.ObjectRef, error) {
	d := v.Config.DefaultDomain
	disk := events.PointDisk{Disk: id.NewDisk(guest, key), Key: key, Format: "raw", Size: int64(len(content)), Sector: 512}
	idKey, err := v.Keys.IDKey(d)
	if err != nil {
		return disk, nil, err
	}
	w, err := vault.NewPackWriter(ctx, v.Store, v.Keys, job, d)
	if err != nil {
		return disk, nil, err
	}
	codec, err := vault.NewCodec("lz4")
	if err != nil {
		return disk, nil, err
	}
	ids := chunk.NewIDs(idKey)
	seen := map[id.Chunk]bool{}
	var extents []table.ExtentRow
	for offset := 0; offset < len(content); offset += 64 << 10 {
		b := content[offset:min(offset+64<<10, len(content))]
		c := ids.ID(b)
		extents = append(extents, table.ExtentRow{Offset: int64(offset), Length: int64(len(b)), ID: c})
		if seen[c] {
			continue
		}
		seen[c] = true
		sealed, err := v.Keys.SealChunk(nil, d, c, codec.Encode(nil, b))
		if err != nil {
			return disk, nil, err
		}
		if _, err := w.Add(vault.PackEntry{Chunk: c, Raw: uint32(len(b))}, vault.PackDisk{Guest: guest, Disk: disk.Disk}, sealed); err != nil {
			return disk, nil, err
		}
	}
	info, err := w.Close(ctx)
	if err != nil {
		return disk, nil, err
	}
	return writeTables(ctx, v, job, disk, info, extents)
}

func writeTables(ctx context.Context, v *vault.Vault, job id.Job, disk events.PointDisk, info vault.PackInfo, extents []table.ExtentRow) (events.PointDisk, []ledger.ObjectRef, error) {
	d := v.Config.DefaultDomain
	number := map[id.Chunk]uint32{}
	var rows []table.ChunkRow
	for n, e := range info.Entries {
		number[e.Chunk] = uint32(n)
		rows = append(rows, table.ChunkRow{Chunk: e.Chunk, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw, New: true})
	}
	for n := range extents {
		extents[n].Chunk = number[extents[n].ID]
	}
	chunks, chunkRef, err := table.WriteChunks(ctx, v, job, d, []table.PackRef{{Job: job, Name: info.Name}}, rowsOf(rows))
	if err != nil {
		return disk, nil, err
	}
	cover, coverRef, err := table.WriteExtents(ctx, v, job, d, rowsOf(extents))
	if err != nil {
		return disk, nil, err
	}
	disk.Extents, disk.Chunks, disk.Root = []events.TableRef{cover}, []events.TableRef{chunks}, cover.Root
	return disk, []ledger.ObjectRef{chunkRef, coverRef}, nil
}

func rowsOf[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range all {
			if !yield(x, nil) {
				return
			}
		}
	}
}
