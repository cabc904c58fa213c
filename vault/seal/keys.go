package seal

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/frame"
)

// Keys is what a process holds of a vault's secrets: all of them after
// [New] or [Unwrap], the granted parts after [LoadGrant]. Methods that need a part which is not
// held return ErrNoPart. It may be used from many goroutines, and prints as
// "***" whatever the verb or encoder.
type Keys struct{ h *held }

// held is behind a pointer so that copies of Keys, too, print nothing.
type held struct {
	vault      id.Vault
	generation int // how often they were rotated
	meta       *box
	domains    map[id.Domain]*domainKeys // that are wrapped with the rest
	sign       ed25519.PrivateKey
	decoder    frame.Decoder

	source Source // of domains apart; may be nil
	mu     sync.Mutex
	apart  map[id.Domain]*domainKeys // fetched so far
}

type domainKeys struct {
	idKey, cutKey *[32]byte
	data          *box
	newest        int // generation of the newest object, of a domain apart
}

// box is a Tink AEAD keyset ready for use: sealing takes the primary key,
// opening whichever enabled key the ciphertext names.
type box struct {
	handle  *keyset.Handle
	aead    tink.AEAD
	primary uint32
	ids     []uint32
}

func (b *box) holds(tinkKey uint32) bool { return slices.Contains(b.ids, tinkKey) }

// newBox makes a keyset of one fresh XAES-256-GCM key (192-bit nonces: random
// ones stay unique for any number of chunks).
func newBox() (*box, error) {
	h, err := keyset.NewHandle(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a keyset: %w", err)
	}
	return boxOf(h)
}

func boxOf(h *keyset.Handle) (*box, error) {
	b := &box{handle: h}
	var err error
	if b.aead, err = aead.New(h); err != nil {
		return nil, fmt.Errorf("use keyset: %w", err)
	}
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("use keyset: %w", err)
		}
		if e.KeyStatus() != keyset.Enabled {
			continue
		}
		if _, prefixed := e.Key().IDRequirement(); !prefixed {
			return nil, fmt.Errorf("use keyset: key %08x writes no key id", e.KeyID())
		}
		b.ids = append(b.ids, e.KeyID())
		if e.IsPrimary() {
			b.primary = e.KeyID()
		}
	}
	if !b.holds(b.primary) {
		return nil, fmt.Errorf("use keyset: no primary key")
	}
	return b, nil
}

// json returns the keyset in Tink's JSON form, in clear.
func (b *box) json() ([]byte, error) {
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(b.handle, keyset.NewJSONWriter(&buf)); err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	return buf.Bytes(), nil
}

func boxFromJSON(text []byte) (*box, error) {
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil { // Tink's errors may quote their input, which is secret
		return nil, fmt.Errorf("read keyset: not a Tink keyset: %w", ErrDamaged)
	}
	b, err := boxOf(h)
	if err != nil {
		return nil, fmt.Errorf("read keyset: not of AEAD keys with ids: %w", ErrDamaged)
	}
	return b, nil
}

// New makes the secrets of a new vault with one domain.
func New() (*Keys, id.Domain, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, id.Domain{}, fmt.Errorf("make the signing key: %w", err)
	}
	meta, err := newBox()
	if err != nil {
		return nil, id.Domain{}, err
	}
	data, err := newBox()
	if err != nil {
		return nil, id.Domain{}, err
	}
	d := &domainKeys{idKey: new([32]byte), cutKey: new([32]byte), data: data}
	_, _ = rand.Read(d.idKey[:]) // never fails since Go 1.24
	_, _ = rand.Read(d.cutKey[:])
	name := id.NewDomain()
	return &Keys{&held{
		vault: VaultID(private.Public().(ed25519.PublicKey)), meta: meta, sign: private,
		domains: map[id.Domain]*domainKeys{name: d},
	}}, name, nil
}

// rotated is b with a fresh key that seals from now on. What b opens it opens.
func (b *box) rotated() (*box, error) {
	m := keyset.NewManagerFromHandle(b.handle)
	fresh, err := m.Add(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("rotate keyset: %w", err)
	}
	if err := m.SetPrimary(fresh); err != nil {
		return nil, fmt.Errorf("rotate keyset: %w", err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("rotate keyset: %w", err)
	}
	return boxOf(h)
}

// Rotate returns keys of the next generation: fresh ones seal, those there were open
// what they sealed. What names and cuts chunks stays, so that what is stored is found
// again, and so does what signs: the vault's id is made of it. Domains apart stay as they
// are until they are given a fresh key ([Keys.MoreApart]). It needs [PartAll].
func (k *Keys) Rotate() (*Keys, error) {
	if !k.Holds(PartSign|PartMeta, id.Domain{}) {
		return nil, fmt.Errorf("rotate keys: %w", ErrNoPart)
	}
	if k.h.generation >= MaxGeneration {
		return nil, fmt.Errorf("rotate keys: they were rotated %d times, which is as often as a vault may", k.h.generation)
	}
	out := &held{vault: k.h.vault, generation: k.h.generation + 1, sign: k.h.sign, domains: map[id.Domain]*domainKeys{}, source: k.h.source}
	var err error
	if out.meta, err = k.h.meta.rotated(); err != nil {
		return nil, err
	}
	for name, d := range k.h.domains {
		if !k.Holds(PartData|PartIDs|PartCut, name) {
			return nil, fmt.Errorf("rotate keys of domain %s: %w", name, ErrNoPart)
		}
		data, err := d.data.rotated()
		if err != nil {
			return nil, err
		}
		out.domains[name] = &domainKeys{idKey: d.idKey, cutKey: d.cutKey, data: data}
	}
	return &Keys{out}, nil
}

// MaxGeneration is how often the keys of a vault may be rotated.
const MaxGeneration = 1000

// Generation is how often these keys were rotated.
func (k *Keys) Generation() int { return k.h.generation }

// VaultID names a vault by its public signing key.
func VaultID(public ed25519.PublicKey) id.Vault { return sha256.Sum256(public) }

// Public is the key that checks the vault's signatures; nil without PartSign.
func (k *Keys) Public() ed25519.PublicKey {
	if k.h.sign == nil {
		return nil
	}
	return k.h.sign.Public().(ed25519.PublicKey)
}

// Holds reports that all the named parts are held, those of a domain for d.
func (k *Keys) Holds(parts Part, d id.Domain) bool {
	dk := &domainKeys{}
	if parts&(PartIDs|PartCut|PartData) != 0 {
		if known, err := k.domain(d); err == nil {
			dk = known
		}
	}
	return (parts&PartSign == 0 || k.h.sign != nil) && (parts&PartMeta == 0 || k.h.meta != nil) &&
		(parts&PartIDs == 0 || dk.idKey != nil) && (parts&PartCut == 0 || dk.cutKey != nil) &&
		(parts&PartData == 0 || dk.data != nil)
}

// Vault is the id of the vault these keys belong to.
func (k *Keys) Vault() id.Vault { return k.h.vault }

// Domains lists the domains of which any key is held, in order of their ids; none apart.
func (k *Keys) Domains() []id.Domain {
	all := make([]id.Domain, 0, len(k.h.domains))
	for d := range k.h.domains {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b id.Domain) int { return bytes.Compare(a[:], b[:]) })
	return all
}

// IDKey returns the key under which chunks of domain d are named (PartIDs).
func (k *Keys) IDKey(d id.Domain) ([32]byte, error) {
	dk, err := k.domain(d)
	if err == nil && dk.idKey != nil {
		return *dk.idKey, nil
	}
	return [32]byte{}, fmt.Errorf("id key of domain %s: %w", d, cmp.Or(err, ErrNoPart))
}

// CutKey returns the key that decides where chunks of domain d end (PartCut).
func (k *Keys) CutKey(d id.Domain) ([32]byte, error) {
	dk, err := k.domain(d)
	if err == nil && dk.cutKey != nil {
		return *dk.cutKey, nil
	}
	return [32]byte{}, fmt.Errorf("cut key of domain %s: %w", d, cmp.Or(err, ErrNoPart))
}

func (k *Keys) data(d id.Domain) (*box, error) {
	dk, err := k.domain(d)
	if err == nil && dk.data != nil {
		return dk.data, nil
	}
	return nil, fmt.Errorf("data keyset of domain %s: %w", d, cmp.Or(err, ErrNoPart))
}

// DataKeyID returns the Tink id of the key that chunks of domain d are sealed
// with from now on.
func (k *Keys) DataKeyID(d id.Domain) (uint32, error) {
	b, err := k.data(d)
	if err != nil {
		return 0, err
	}
	return b.primary, nil
}

// MetaKeyID returns the Tink id of the key that SealMeta uses.
func (k *Keys) MetaKeyID() (uint32, error) {
	if k.h.meta == nil {
		return 0, fmt.Errorf("meta keyset: %w", ErrNoPart)
	}
	return k.h.meta.primary, nil
}

// HoldsMetaKey reports that what was sealed under this key of the meta keyset can be opened.
func (k *Keys) HoldsMetaKey(tinkKey uint32) bool { return k.h.meta != nil && k.h.meta.holds(tinkKey) }

// Sign returns the vault's Ed25519 signature of message (64 bytes), checked by
// VaultID's key. Messages of different kinds must begin with different words,
// so that none can be passed off as another. It needs PartSign.
func (k *Keys) Sign(message []byte) ([]byte, error) {
	if k.h.sign == nil {
		return nil, fmt.Errorf("signing key: %w", ErrNoPart)
	}
	return ed25519.Sign(k.h.sign, message), nil
}

const hidden = "vault.Keys(***)"

// Format prints "***" for every verb.
func (k Keys) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// String returns "***".
func (k Keys) String() string { return hidden }

// GoString returns "***".
func (k Keys) GoString() string { return hidden }

// MarshalJSON writes "***"; [Keys.Grant] is the way to hand keys on.
func (k Keys) MarshalJSON() ([]byte, error) { return []byte(`"***"`), nil }

// MarshalText writes "***".
func (k Keys) MarshalText() ([]byte, error) { return []byte("***"), nil }

// LogValue logs "***".
func (k Keys) LogValue() slog.Value { return slog.StringValue("***") }
