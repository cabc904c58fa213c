package folder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-backup/millrace/vdisk/open"
)

// parentFolders are where the parents of a source's images may be: in a source
// that is a folder, and below it.
func parentFolders(source string) []string {
	st, err := os.Stat(source)
	if err != nil || !st.IsDir() {
		return nil // what is wrong with it is said when it is opened
	}
	return []string{source}
}

// probe opens each image and notes what it is, and which files it is laid on.
func probe(ctx context.Context, found []candidate, parents []string) error {
	for i := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := found[i].probe(parents); err != nil {
			return fmt.Errorf("disk %s: %w", found[i].key, err)
		}
	}
	return nil
}

func (c *candidate) probe(parents []string) error {
	image, err := openImage(c.path, c.format, parents)
	if err != nil {
		return err
	}
	c.info = image.Info()
	below := parentPaths(image)
	if err := image.Close(); err != nil {
		return err
	}
	if c.file, err = os.Stat(c.path); err != nil {
		return err
	}
	for _, path := range below {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		c.below = append(c.below, st)
	}
	return nil
}

// parentPaths are the files beneath an image, its own parent first.
func parentPaths(image *open.Disk) []string {
	var out []string
	for _, l := range image.Layers()[1:] {
		out = append(out, l.Path)
	}
	return out
}

// leaves are the images that no other is laid on. An image that is its own parent
// was refused when it was opened, so there is a leaf above every image.
func leaves(found []candidate) []candidate {
	return slices.DeleteFunc(slices.Clone(found), func(c candidate) bool {
		return slices.ContainsFunc(found, func(other candidate) bool {
			return slices.ContainsFunc(other.below, func(st os.FileInfo) bool { return os.SameFile(st, c.file) })
		})
	})
}

// openParent opens a file of a chain by a path that may lead over links inside the
// source's folder; [openFile] takes none.
func openParent(path string) (*os.File, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return openFile(real)
}
