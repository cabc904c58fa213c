package session

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// Memory is what this machine remembers of vaults, in its state folder: which
// vault is at which place (vaults/), the newest checkpoint of each
// (checkpoints/), and caches that may be deleted (cache/).
type Memory struct{ State string }

// place is the remembered vault of one location.
type place struct {
	Location  string    `json:"location"`
	Vault     id.Vault  `json:"vault"`
	FirstSeen time.Time `json:"first_seen"`
}

func (m Memory) placeFile(location string) string {
	sum := sha256.Sum256([]byte(location))
	return filepath.Join(m.State, "vaults", hex.EncodeToString(sum[:8])+".json")
}

// at returns which vault was at a location, zero if none was, and the file that
// says so.
func (m Memory) at(location string) (id.Vault, string, error) {
	file := m.placeFile(location)
	text, err := remembered("read what is remembered of vaults", file)
	if text == nil || err != nil {
		return id.Vault{}, file, err
	}
	var p place
	if err := json.Unmarshal(text, &p); err != nil {
		return id.Vault{}, file, &fault.Fault{Op: "read what is remembered of vaults", Object: file, Err: err,
			Remedy: "remove the file to trust the vault that is there now"}
	}
	return p.Vault, file, nil
}

// remembered is the text of a file of the memory, nil if there is none. One that is
// there and cannot be read is an error: without it a rollback would go unnoticed.
func remembered(op, file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, &fault.Fault{Op: op, Object: file, Err: err,
			Remedy: "give this account the right to read it; another --state remembers nothing yet and trusts what is there now"}
	}
	return text, nil
}

// Meet remembers that a vault is at a location.
func (m Memory) Meet(location string, v id.Vault, now time.Time) error {
	text, err := json.MarshalIndent(place{location, v, now.UTC().Truncate(time.Second)}, "", "  ")
	if err != nil {
		return err
	}
	return fault.At("remember vault in", m.placeFile(location), writeFile(m.placeFile(location), append(text, '\n')))
}

func (m Memory) checkpointFile(v id.Vault) string {
	return filepath.Join(m.State, "checkpoints", v.String())
}

// checkpoint returns the newest checkpoint seen of a vault, nil if none was. The
// file is signed by the vault, so what is not genuine is an error: going on
// without it would be what an attacker wants.
func (m Memory) checkpoint(cfg vault.Config) (*ledger.Checkpoint, error) {
	file := m.checkpointFile(cfg.ID)
	text, err := remembered("read remembered checkpoint", file)
	if text == nil || err != nil {
		return nil, err
	}
	c, err := ledger.ParseCheckpoint(cfg, text)
	if err != nil {
		return nil, &fault.Fault{Op: "read remembered checkpoint", Object: file, Err: err,
			Remedy: "find out what changed the file; removing it gives up the protection against rollback up to now"}
	}
	return &c, nil
}

// Keep remembers a checkpoint unless a later one is remembered already.
func (m Memory) Keep(cfg vault.Config, c ledger.Checkpoint) error {
	if c.Size == 0 {
		return nil
	}
	// Two commands may end at the same time; what is lost then is one step of
	// the memory, and the next command takes it again.
	if old, err := m.checkpoint(cfg); err == nil && old != nil && old.Size >= c.Size {
		return nil
	}
	file := m.checkpointFile(cfg.ID)
	return fault.At("remember checkpoint in", file, writeFile(file, c.Note))
}

// replace remembers a checkpoint whatever was remembered.
func (m Memory) replace(c ledger.Checkpoint) error {
	file := m.checkpointFile(c.Vault)
	return fault.At("remember checkpoint in", file, writeFile(file, c.Note))
}

// copies is how many segments of a vault there have been by the copies in the cache:
// one more than the highest number of these. A cache that is there and cannot be read is
// an error, as a checkpoint is. It is asked for before the ledger is opened: another
// command may meanwhile append, and copy what it appended.
func (m Memory) copies(v id.Vault) (count uint64, err error) {
	folder := m.Cache(v, "ledger")
	entries, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, &fault.Fault{Op: "read the copies of segments", Object: folder, Err: err,
			Remedy: "give this account the right to read them; removing the folder trusts the vault as it is now"}
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && len(e.Name()) == 20 {
			count = max(count, n+1)
		}
	}
	return count, nil
}

// seen is the most that this machine knows of a vault: the newest checkpoint, or, where
// none is remembered, how many of its segments there are copies of.
func (m Memory) seen(cfg vault.Config) (c *ledger.Checkpoint, copies uint64, err error) {
	if c, err = m.checkpoint(cfg); c != nil || err != nil {
		return c, 0, err
	}
	copies, err = m.copies(cfg.ID)
	return nil, copies, err
}

// shorter is the error of a ledger that ends at segment next although there are copies of
// more.
func (m Memory) shorter(v id.Vault, next, copies uint64) error {
	if copies <= next {
		return nil
	}
	return &fault.Fault{Err: fmt.Errorf("it ends at segment %d, seen was segment %d, of which %s has a copy: %w", next, copies, m.Cache(v, "ledger"), ledger.ErrRollback),
		Remedy: "find out who set the vault back, and when; removing that folder trusts the vault as it is now"}
}

// Cache is a folder for what can be had again from the vault.
func (m Memory) Cache(v id.Vault, what string) string {
	return filepath.Join(m.State, "cache", v.String(), what)
}

// writeFile replaces a file whole and durably; see dir.Replace.
func writeFile(path string, text []byte) error { return dir.Replace(dir.OS(), path, text) }
