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

// Spool is the files, open.
type Spool struct {
	Stored  *chunkindex.Growing // chunks in this job's packs; delta workers follow it
	Rows    *spill.Log          // of all disks
	Digests *rows.Digests
}

// Open makes empty files, over what a predecessor left there. Stored grows in a folder
// of its own, with so many chunks in memory, 0 for its default.
func Open(folder, stored string, chunks int) (*Spool, error) {
	if err := os.MkdirAll(filepath.Join(folder, Folder), 0o700); err != nil {
		return nil, fmt.Errorf("make the indexer's folder: %w", err)
	}
	s := &Spool{}
	var err error
	if s.Stored, err = chunkindex.Grow(filepath.Join(folder, stored), chunks); err != nil {
		return nil, err
	}
	if s.Rows, err = spill.Create(filepath.Join(folder, Folder, "rows")); err != nil {
		return nil, err
	}
	s.Digests, err = rows.CreateDigests(filepath.Join(folder, Folder, "digests"))
	return s, err
}

// Close closes them.
func (s *Spool) Close() error {
	return errors.Join(s.Stored.Close(), s.Rows.Close(), s.Digests.Close())
}
