// Package spool is what an indexer keeps in files of its job's folder, because it grows
// with the disks: where chunks went, the rows of parcels, a digest of each. A process
// that follows another makes them again from the journal.
package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/catalog/rows"
	"github.com/millrace-backup/millrace/catalog/spill"
)

// Folder is where the files are in a job's folder, those of [Spool.Stored] excepted.
const Folder = "indexer"

// StoredFolder is where, in a job's folder, the index of what it stored grows.
const StoredFolder = "stored"

// Spool is the files, open.
type Spool struct {
	Stored  *chunkindex.Growing // chunks in this job's packs; delta workers follow it
	Rows    *spill.Log          // of all disks
	Digests *rows.Digests
}

// Open makes empty files in a job's folder, over what a predecessor left there. So many
// chunks of Stored are in memory, 0 for its default.
func Open(folder string, chunks int) (_ *Spool, err error) {
	if err := os.MkdirAll(filepath.Join(folder, Folder), 0o700); err != nil {
		return nil, fmt.Errorf("make the indexer's folder: %w", err)
	}
	s := &Spool{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Stored, err = chunkindex.Grow(filepath.Join(folder, StoredFolder), chunks); err != nil {
		return nil, err
	}
	if s.Rows, err = spill.Create(filepath.Join(folder, Folder, "rows")); err != nil {
		return nil, err
	}
	if s.Digests, err = rows.CreateDigests(filepath.Join(folder, Folder, "digests")); err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes them.
func (s *Spool) Close() (err error) {
	if s.Stored != nil {
		err = s.Stored.Close()
	}
	if s.Rows != nil {
		err = errors.Join(err, s.Rows.Close())
	}
	if s.Digests != nil {
		err = errors.Join(err, s.Digests.Close())
	}
	return err
}
