// Package part makes the file that a restore writes before the real name appears,
// and removes those that killed restores to the same name left behind.
//
// The file for NAME is ".NAME.WORD.part" beside it, WORD being 16 random hex
// digits; of a long NAME the first 200 bytes stand. Whoever writes one holds a lock
// on it that ends with the process, so that a leftover can be told from the file of
// a restore that still runs. Where the file system knows no locks nothing is removed.
package part

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	suffix = ".part"
	word   = 16 // hex digits
)

// Create removes what earlier restores to path left, and returns a new, empty,
// locked file beside it that only its owner can read. Closing it ends the lock.
func Create(path string) (*os.File, error) {
	sweep(path)
	folder, prefix := names(path)
	for {
		var w [word / 2]byte
		_, _ = rand.Read(w[:]) // never fails since Go 1.24
		f, err := os.OpenFile(filepath.Join(folder, prefix+hex.EncodeToString(w[:])+suffix), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		// Another restore may have taken it for a leftover before it was locked.
		hold(f)
		mine, err := f.Stat()
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("look at a file just made: %w", err)
		}
		if there, err := os.Lstat(f.Name()); err == nil && os.SameFile(mine, there) {
			return f, nil
		}
		_ = f.Close()
	}
}

// names gives the folder of path and what the names of its parts begin with.
func names(path string) (folder, prefix string) {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	return folder, fmt.Sprintf(".%.200s.", name)
}

// sweep removes leftovers. What cannot be removed only costs room, and is tried
// again the next time.
func sweep(path string) {
	folder, prefix := names(path)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return // making the file says why
	}
	for _, e := range entries {
		middle, ours := strings.CutPrefix(e.Name(), prefix)
		middle, ends := strings.CutSuffix(middle, suffix)
		if _, err := hex.DecodeString(middle); !ours || !ends || len(middle) != word || err != nil || !e.Type().IsRegular() {
			continue
		}
		removeUnheld(filepath.Join(folder, e.Name()))
	}
}
