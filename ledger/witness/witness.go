// Package witness keeps checkpoints of vaults outside of them, so that other hosts, and
// this one after it has lost its memory, notice a vault that was set back or forked.
//
// A [Place] is a file, for one vault, or a folder, which holds a file for each vault
// under the name VAULT-ID.checkpoint. [Place.Read] says what was witnessed,
// [Place.Write] witnesses a later state. What is kept is the signed text of a
// checkpoint (docs/format/checkpoint.md): nobody without the vault's keys can make one,
// so the place needs no protection but against being emptied or set back itself.
//
// # Guarantees
//
// A file is replaced whole and durably: after a crash there is the old or the new one.
// A later checkpoint is never replaced by an earlier one, nor by that of another vault.
// Two writers at the same moment may leave the earlier of theirs; the next command
// takes the step again. What is there and is no checkpoint of the vault is an error,
// never "nothing seen": going on would be what an intruder wants.
//
// The package does not compare a checkpoint with a ledger; package ledger does.
package witness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vdisk/regular"
)

// ErrForeign: the file holds a checkpoint of another vault. store.ErrOther is in its chain.
var ErrForeign = fmt.Errorf("witness of another vault: %w", store.ErrOther)

// maxText bounds what is read of a file that may turn out to be something else.
const maxText = 16 << 10

// Place is a path: of a folder if one is there or it ends with a separator, else of a file.
type Place string

// File is where the checkpoint of a vault is.
func (p Place) File(v id.Vault) string {
	info, err := os.Stat(string(p))
	if err == nil && info.IsDir() || strings.HasSuffix(string(p), "/") || strings.HasSuffix(string(p), string(filepath.Separator)) {
		return filepath.Join(string(p), v.String()+".checkpoint")
	}
	return string(p)
}

// Read returns what was witnessed of a vault, nil if nothing was. A file that is there
// and cannot be read, is of another vault (ErrForeign) or is not genuine
// (vault.ErrDamaged) is an error.
func (p Place) Read(cfg vault.Config) (*ledger.Checkpoint, error) {
	file := p.File(cfg.ID)
	text, err := read(file)
	if text == nil || err != nil {
		return nil, err
	}
	if v, ok := origin(text); ok && v != cfg.ID {
		return nil, fmt.Errorf("read witness %s: it is of vault %s: %w", file, v, ErrForeign)
	}
	c, err := ledger.ParseCheckpoint(cfg, text)
	if err != nil {
		return nil, fmt.Errorf("read witness %s: %w", file, err)
	}
	return &c, nil
}

// origin is the vault that a checkpoint says it is of, before anything is believed.
func origin(signed []byte) (v id.Vault, ok bool) {
	line, _, _ := bytes.Cut(signed, []byte("\n"))
	text, ok := bytes.CutPrefix(line, []byte("millrace/"))
	return v, ok && v.UnmarshalText(text) == nil
}

// read returns the text of a file, nil if there is none.
func read(file string) ([]byte, error) {
	f, err := regular.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read witness: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return nil, fmt.Errorf("read witness %s: %w", file, err)
	}
	if text == nil {
		text = []byte{} // an empty file is there, and is no checkpoint
	}
	return text, nil
}

// Write witnesses a checkpoint, unless a later one is there.
func (p Place) Write(cfg vault.Config, c ledger.Checkpoint) error {
	seen, err := p.Read(cfg)
	if err != nil {
		return err
	}
	if c.Size == 0 || seen != nil && seen.Size >= c.Size {
		return nil
	}
	return p.Replace(c)
}

// Replace witnesses a checkpoint whatever is there: for somebody who has decided that
// the state it signs is the one to go on from.
func (p Place) Replace(c ledger.Checkpoint) error {
	file := p.File(c.Vault)
	if err := dir.Replace(dir.OS(), file, c.Note); err != nil {
		return fmt.Errorf("write witness %s: %w", file, err)
	}
	return nil
}
