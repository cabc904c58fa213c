package workload

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Change says what Edit did.
type Change struct {
	Edited, Removed, Added int   // regular files
	Bytes                  int64 // of the files that were written
}

// Edit changes an image that Tree made, whose content is c, through its file
// system: about share of the files (0.02 for one in fifty, three at least), in
// even distances. Of three files one gets a new first line, by which all of its
// bytes move, one is removed, and one is copied into the folder "copies". Files
// of more than a quarter of share of all bytes are passed over.
//
// It needs debugfs, and the folder the content came from as it was.
func Edit(ctx context.Context, image string, c Content, share float64) (Change, error) {
	work, err := os.MkdirTemp("", "millrace-workload-")
	if err != nil {
		return Change{}, fmt.Errorf("change files in %s: %w", image, err)
	}
	defer os.RemoveAll(work)
	var out Change
	script := strings.Builder{}
	script.WriteString("mkdir \"/copies\"\n")
	largest := int64(float64(c.Bytes) * share / 4)
	step := max(1, len(c.paths)/max(3, int(share*float64(len(c.paths)))))
	for i, n := step/2, 0; i < len(c.paths); i += step {
		from := filepath.Join(c.folder, filepath.FromSlash(c.paths[i]))
		info, err := os.Stat(from)
		if err != nil {
			return Change{}, fmt.Errorf("change files in %s: %w", image, err)
		}
		if info.Size() > largest {
			continue
		}
		switch n % 3 {
		case 0:
			edited := filepath.Join(work, fmt.Sprint(n))
			if err := withFirstLine(from, edited, fmt.Sprintf("changed as number %d\n", n)); err != nil {
				return Change{}, fmt.Errorf("change files in %s: %w", image, err)
			}
			fmt.Fprintf(&script, "rm \"/%s\"\nwrite \"%s\" \"/%s\"\n", c.paths[i], edited, c.paths[i])
			out.Edited++
			out.Bytes += info.Size()
		case 1:
			fmt.Fprintf(&script, "rm \"/%s\"\n", c.paths[i])
			out.Removed++
		case 2:
			fmt.Fprintf(&script, "write \"%s\" \"/copies/%d\"\n", from, n)
			out.Added++
			out.Bytes += info.Size()
		}
		n++
	}
	list := filepath.Join(work, "script")
	if err := os.WriteFile(list, []byte(script.String()), 0o600); err != nil {
		return Change{}, fmt.Errorf("change files in %s: %w", image, err)
	}
	if err := runScript(ctx, list, image); err != nil {
		return Change{}, fmt.Errorf("change files in %s: %w", image, err)
	}
	return out, nil
}

// withFirstLine copies a file and puts a line before its content.
func withFirstLine(from, to, line string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.MultiReader(strings.NewReader(line), in))
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Check has e2fsck look at the file system of an image without changing it. The
// error carries what e2fsck found.
func Check(ctx context.Context, image string) error {
	fsck, err := find("e2fsck", "e2fsprogs")
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, fsck, "-fn", image)
	if said, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("check file system of %s: %w: %s", image, err, strings.TrimSpace(string(said)))
	}
	return nil
}
