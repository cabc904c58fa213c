package seal

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/id"
)

// Part names the kinds of secrets a [Keys.Grant] can hand on; add them with |.
type Part uint8

// The parts. The chunker needs PartIDs|PartCut, seal PartData|PartIDs, the
// uploader PartMeta|PartData (the key id in the pack's header), the writer of the
// ledger PartMeta|PartSign.
const (
	PartMeta Part = 1 << iota // tables, ledger bodies, pack footers: seal and open
	PartData                  // chunks: seal and open
	PartIDs                   // chunk ids
	PartCut                   // where chunks end
	PartSign                  // sign as the vault

	// PartAll is what a vault's own keys wrap.
	PartAll = PartMeta | PartData | PartIDs | PartCut | PartSign
)

// What unmarshalKeys accepts: 4,096 domains of up to 900 bytes, each rotation of each 250 more.
const (
	maxGrant   = 8 << 20
	maxDomains = 4096
)

// secretsJSON is the form of the secrets inside a keys/ object (all parts) and of
// a grant (some). Keysets are Tink's own JSON.
type secretsJSON struct {
	Format     int             `json:"format"`
	Vault      id.Vault        `json:"vault"`
	Generation int             `json:"generation,omitempty"`
	SigningKey []byte          `json:"signing_key,omitempty"` // Ed25519 seed, 32 bytes
	Meta       json.RawMessage `json:"meta,omitempty"`
	Domains    []domainSecrets `json:"domains"`
}

type domainSecrets struct {
	ID     id.Domain       `json:"id"`
	IDKey  []byte          `json:"id_key,omitempty"`
	CutKey []byte          `json:"cut_key,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// Grant returns the named parts, for [LoadGrant] in the process that is to have
// them; with domains named, of those alone. The bytes are the keys in clear: hand
// them over an inherited pipe, never in arguments, environment or a file. Parts
// not held are ErrNoPart.
func (k *Keys) Grant(parts Part, domains ...id.Domain) ([]byte, error) {
	if parts&^PartAll != 0 {
		return nil, fmt.Errorf("grant: unknown parts %#x: %w", uint8(parts&^PartAll), ErrNoPart)
	}
	text, err := k.marshal(parts, domains)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	return text, nil
}

// LoadGrant makes keys of what Grant returned: ErrDamaged or ErrNewer if it is
// something else.
func LoadGrant(grant []byte) (*Keys, error) {
	if len(grant) > maxGrant {
		return nil, fmt.Errorf("grant of %d bytes: %w", len(grant), ErrDamaged)
	}
	k, err := unmarshalKeys(grant)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	return k, nil
}

// marshal writes parts of the given domains (nil: all).
func (k *Keys) marshal(parts Part, only []id.Domain) ([]byte, error) {
	j := secretsJSON{Format: Format, Vault: k.h.vault, Generation: k.h.generation, Domains: []domainSecrets{}}
	if parts&PartSign != 0 {
		if k.h.sign == nil {
			return nil, fmt.Errorf("signing key: %w", ErrNoPart)
		}
		j.SigningKey = k.h.sign.Seed()
	}
	if parts&PartMeta != 0 {
		if k.h.meta == nil {
			return nil, fmt.Errorf("meta keyset: %w", ErrNoPart)
		}
		var err error
		if j.Meta, err = k.h.meta.json(); err != nil {
			return nil, err
		}
	}
	if len(only) == 0 {
		only = k.Domains()
	}
	if parts&(PartData|PartIDs|PartCut) == 0 {
		only = nil
	} else if len(only) == 0 {
		return nil, fmt.Errorf("keys of a domain: %w", ErrNoPart)
	}
	for _, d := range only {
		secrets, err := k.marshalDomain(parts, d)
		if err != nil {
			return nil, err
		}
		j.Domains = append(j.Domains, secrets)
	}
	return json.Marshal(j)
}

func (k *Keys) marshalDomain(parts Part, d id.Domain) (domainSecrets, error) {
	out := domainSecrets{ID: d}
	if parts&PartIDs != 0 {
		key, err := k.IDKey(d)
		if err != nil {
			return out, err
		}
		out.IDKey = key[:]
	}
	if parts&PartCut != 0 {
		key, err := k.CutKey(d)
		if err != nil {
			return out, err
		}
		out.CutKey = key[:]
	}
	if parts&PartData != 0 {
		b, err := k.data(d)
		if err != nil {
			return out, err
		}
		if out.Data, err = b.json(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// unmarshalKeys is the inverse of marshal. Its errors never quote the input.
func unmarshalKeys(text []byte) (*Keys, error) {
	var j secretsJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, fmt.Errorf("secrets are not in the known form: %w", ErrDamaged)
	}
	if j.Format > Format {
		return nil, fmt.Errorf("secrets of format %d, this program knows up to %d: %w", j.Format, Format, ErrNewer)
	}
	if j.Format < 1 || j.Vault.IsZero() || len(j.Domains) > maxDomains || j.Generation < 0 || j.Generation > MaxGeneration {
		return nil, fmt.Errorf("secrets of no vault: %w", ErrDamaged)
	}
	h := &held{vault: j.Vault, generation: j.Generation, domains: make(map[id.Domain]*domainKeys, len(j.Domains))}
	if len(j.SigningKey) > 0 {
		if len(j.SigningKey) != ed25519.SeedSize {
			return nil, fmt.Errorf("signing key of %d bytes: %w", len(j.SigningKey), ErrDamaged)
		}
		h.sign = ed25519.NewKeyFromSeed(j.SigningKey)
		if VaultID(h.sign.Public().(ed25519.PublicKey)) != j.Vault {
			return nil, fmt.Errorf("the signing key is not the vault's: %w", ErrDamaged)
		}
	}
	var err error
	if present(j.Meta) {
		if h.meta, err = boxFromJSON(j.Meta); err != nil {
			return nil, fmt.Errorf("meta keyset: %w", err)
		}
	}
	for _, d := range j.Domains {
		if d.ID.IsZero() || h.domains[d.ID] != nil {
			return nil, fmt.Errorf("domain %s is there twice or has no id: %w", d.ID, ErrDamaged)
		}
		if h.domains[d.ID], err = d.keys(); err != nil {
			return nil, fmt.Errorf("domain %s: %w", d.ID, err)
		}
	}
	return &Keys{h}, nil
}

func (d domainSecrets) keys() (*domainKeys, error) {
	out := &domainKeys{}
	var err error
	if out.idKey, err = key32(d.IDKey); err != nil {
		return nil, err
	}
	if out.cutKey, err = key32(d.CutKey); err != nil {
		return nil, err
	}
	if present(d.Data) {
		if out.data, err = boxFromJSON(d.Data); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func key32(b []byte) (*[32]byte, error) {
	switch len(b) {
	case 0:
		return nil, nil
	case 32:
		return (*[32]byte)(slices.Clone(b)), nil
	}
	return nil, fmt.Errorf("key of %d bytes: %w", len(b), ErrDamaged)
}

// present reports that a member is there: json keeps "null" in a RawMessage.
func present(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }
