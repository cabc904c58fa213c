package known

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Link gives the index files names of their own in folder: a worker that is
// restarted opens them again, and another job's Refresh may have removed them. It
// returns the names, and which files are gone already: that makes chunks
// unknown, which costs space and no data.
func (x Index) Link(folder string) (files, gone []string, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the job's index folder: %w", err)
	}
	for _, from := range x.Files {
		to := filepath.Join(folder, filepath.Base(from))
		err := os.Link(from, to)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			err = copyFile(from, to) // a file system without links
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			gone = append(gone, from)
		case err != nil:
			return nil, nil, fmt.Errorf("keep a chunk index file for the job: %w", err)
		default:
			files = append(files, to)
		}
	}
	return files, gone, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
