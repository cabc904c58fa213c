// Package part makes the file that a restore writes before the real name appears,
// and removes those that killed restores to the same name left behind.
//
// The file for NAME is ".NAME.WORD.part" beside it, WORD being 16 random hex
// digits; of a long NAME the first 200 bytes stand. Whoever writes one holds a lock
// on it that ends with the process, so that a leftover can be told from the file of
// a restore that still runs. Where the file system knows no locks nothing is removed.
//
// [Create] does both for one path. Who writes many files into a folder calls [Sweep]
// once for all their names, and [In] for each. Nothing is touched outside of the folder.
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
	// Of a name; file systems take 255 bytes.
	longest = 200
)

// Create removes what earlier restores to path left, and returns a new, empty,
// locked file beside it that only its owner can read. Closing it ends the lock.
func Create(path string) (*os.File, error) {
	folder, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	Sweep(folder, filepath.Base(path))
	return In(folder, filepath.Base(path))
}

// In returns a new file for name, which is in folder, as Create does.
func In(folder *os.Root, name string) (*os.File, error) {
	for {
		var w [word / 2]byte
		_, _ = rand.Read(w[:]) // never fails since Go 1.24
		temp := prefix(name) + hex.EncodeToString(w[:]) + suffix
		f, err := folder.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
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
		if there, err := folder.Lstat(temp); err == nil && os.SameFile(mine, there) {
			return f, nil
		}
		_ = f.Close()
	}
}

// prefix is what the names of a name's parts begin with.
func prefix(name string) string {
	if len(name) > longest {
		name = strings.ToValidUTF8(name[:longest], "")
	}
	return "." + name + "."
}

// Sweep removes what earlier restores to these names in folder left. What cannot be
// removed only costs room, and is tried again the next time.
func Sweep(folder *os.Root, names ...string) {
	here, err := folder.Open(".")
	if err != nil {
		return // making the file says why
	}
	defer here.Close()
	ours := map[string]bool{}
	for _, name := range names {
		ours[prefix(name)] = true
	}
	entries, _ := here.ReadDir(-1)
	for _, e := range entries {
		stem, ends := strings.CutSuffix(e.Name(), suffix)
		at := len(stem) - word
		if !ends || at < 0 || !ours[stem[:at]] || !e.Type().IsRegular() {
			continue
		}
		if _, err := hex.DecodeString(stem[at:]); err == nil {
			removeUnheld(folder, e.Name())
		}
	}
}
