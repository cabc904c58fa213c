package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/seal"
	"github.com/millrace-backup/millrace/vault/store"
)

// ConfigName is the object that makes a store a vault.
const ConfigName = "vault"

const (
	maxConfig  = 1 << 20
	maxDomains = 4096
)

// Config is the clear, signed description of a vault. It never changes.
type Config struct {
	Format        int               `json:"format"`         // see the constant Format
	ID            id.Vault          `json:"id"`             // SHA-256 of SigningKey
	SigningKey    ed25519.PublicKey `json:"signing_key"`    // 32 bytes
	Created       time.Time         `json:"created"`        // UTC, whole seconds
	CellSize      int64             `json:"cell_size"`      // bytes; chunks never cross a multiple of it
	BlockSize     int64             `json:"block_size"`     // bytes; the unit of change tracking
	Domains       []Domain          `json:"domains"`        // at least one
	DefaultDomain id.Domain         `json:"default_domain"` // one of Domains
}

// Domain is a dedup domain as everyone may see it: how it cuts, not its keys.
type Domain struct {
	ID     id.Domain    `json:"id"`
	Cutter chunk.Params `json:"cutter"`
}

// Domain returns the domain of that id, and whether there is one.
func (c Config) Domain(d id.Domain) (Domain, bool) {
	for _, each := range c.Domains {
		if each.ID == d {
			return each, true
		}
	}
	return Domain{}, false
}

// Verify returns nil if signature is the vault's own of message (see
// [Keys.Sign]), else ErrDamaged.
func (c Config) Verify(message, signature []byte) error {
	if len(c.SigningKey) != ed25519.PublicKeySize || !ed25519.Verify(c.SigningKey, message, signature) {
		return fmt.Errorf("signature of vault %s: %w", id.Short(c.ID), ErrDamaged)
	}
	return nil
}

// signedConfig is the JSON form: the fields of Config in their order, and the
// signature last, because what is signed is the rest, see allButLast.
type signedConfig struct {
	Config
	Signature []byte `json:"signature"`
}

// configSigned is what the signature of a config begins with, so that it can be
// taken for the signature of nothing else.
const configSigned = "millrace vault config\n"

// encodeConfig returns the bytes of the "vault" object, signed with k.
func encodeConfig(c Config, k *Keys) ([]byte, error) {
	j := signedConfig{Config: c}
	text, err := signJSON(&j, &j.Signature, configSigned, k)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", ConfigName, err)
	}
	return text, nil
}

// signJSON writes v, whose last member is what signature points to, and signs it
// as being of the given kind: Ed25519 over kind ‖ allButLast(v).
func signJSON(v any, signature *[]byte, kind string, k *Keys) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	covered, err := allButLast(text) // the last is null so far
	if err != nil {
		return nil, err
	}
	if *signature, err = k.Sign(append([]byte(kind), covered...)); err != nil {
		return nil, err
	}
	if text, err = json.MarshalIndent(v, "", "  "); err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

// allButLast is what the signature of a config or a key, and the wrapping of a
// key, cover: the JSON object without white space between its tokens and without
// its last member, members in the order they were written. So every field counts,
// later versions' too, and a file may be indented differently.
func allButLast(text []byte) ([]byte, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, err
	}
	b := compact.Bytes()
	// The last member is a base64 string or null: no comma can be inside it.
	cut := bytes.LastIndexByte(b, ',')
	if len(b) == 0 || b[0] != '{' || cut < 0 {
		return nil, errors.New("not an object of two members or more")
	}
	return append(b[:cut:cut], '}'), nil
}

// checkSigned returns the part of text that is signed, after checking that
// signature, read from it, is c's of that part and of this kind. The rest must be
// the signature and nothing else, written the one way we write it.
func (c Config) checkSigned(text, signature []byte, kind string) ([]byte, error) {
	covered, err := allButLast(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	var compact bytes.Buffer
	_ = json.Compact(&compact, text) // allButLast has done it before
	last := fmt.Sprintf(`,"signature":"%s"}`, base64.StdEncoding.EncodeToString(signature))
	if string(compact.Bytes()[len(covered)-1:]) != last {
		return nil, fmt.Errorf("its last member is not a signature: %w", ErrDamaged)
	}
	return covered, c.Verify(append([]byte(kind), covered...), signature)
}

// parseConfig reads and checks the "vault" object. What it returns is signed by
// the key that the vault's id stands for.
func parseConfig(text []byte) (Config, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return Config{}, damaged(ConfigName, "%v", err)
	}
	if version.Format > Format {
		return Config{}, newer(ConfigName, version.Format)
	}
	var j signedConfig
	if err := json.Unmarshal(text, &j); err != nil {
		return Config{}, damaged(ConfigName, "%v", err)
	}
	c := j.Config
	if len(c.SigningKey) != ed25519.PublicKeySize || seal.VaultID(c.SigningKey) != c.ID {
		return Config{}, damaged(ConfigName, "its id is not the hash of its signing key")
	}
	if _, err := c.checkSigned(text, j.Signature, configSigned); err != nil {
		return Config{}, fmt.Errorf("%s: %w", ConfigName, err)
	}
	if err := c.check(); err != nil {
		return Config{}, damaged(ConfigName, "%v", err)
	}
	c.Created = c.Created.UTC()
	return c, nil
}

// check holds the numbers to what every reader can work with. A signature does
// not make a vault harmless: whoever made it chose them.
func (c Config) check() error {
	switch {
	case c.Format < 1:
		return fmt.Errorf("format %d", c.Format)
	case len(c.Domains) > maxDomains:
		return fmt.Errorf("%d domains", len(c.Domains))
	case c.BlockSize < 512 || c.BlockSize > 64<<10 || c.BlockSize&(c.BlockSize-1) != 0:
		return fmt.Errorf("blocks of %d bytes", c.BlockSize)
	case c.CellSize < 64<<10 || c.CellSize > MaxChunk || c.CellSize&(c.CellSize-1) != 0 || c.CellSize < c.BlockSize:
		return fmt.Errorf("cells of %d bytes", c.CellSize)
	}
	seen := make(map[id.Domain]bool, len(c.Domains))
	for _, d := range c.Domains {
		if d.ID.IsZero() || seen[d.ID] {
			return fmt.Errorf("domain %s is there twice or has no id", d.ID)
		}
		seen[d.ID] = true
		if err := d.Cutter.Check(); err != nil {
			return fmt.Errorf("domain %s: %w", d.ID, err)
		}
		if int64(d.Cutter.Max) > c.CellSize {
			return fmt.Errorf("domain %s cuts chunks of %d bytes in cells of %d", d.ID, d.Cutter.Max, c.CellSize)
		}
	}
	if !seen[c.DefaultDomain] {
		return fmt.Errorf("default domain %s is not one of its domains", c.DefaultDomain)
	}
	return nil
}

// ReadConfig reads the public part of the vault in st, for which no key is
// needed, and checks its signature: ErrNoVault, ErrNewer or ErrDamaged.
func ReadConfig(ctx context.Context, st store.Store) (Config, error) {
	text, err := store.ReadAll(ctx, st, ConfigName, maxConfig)
	switch {
	case errors.Is(err, store.ErrForeign):
		return Config{}, damaged(ConfigName, "%v", err)
	case errors.Is(err, store.ErrNotFound):
		return Config{}, fmt.Errorf("read %s: %w", ConfigName, ErrNoVault)
	case errors.Is(err, store.ErrLength):
		return Config{}, damaged(ConfigName, "longer than %d bytes", maxConfig)
	case err != nil:
		return Config{}, fmt.Errorf("read %s: %w", ConfigName, err)
	}
	return parseConfig(text)
}
