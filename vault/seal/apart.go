package seal

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/id"
)

// A domain *apart* is one whose secrets are not among those that a password wraps, so
// that they can be destroyed without touching a password: they lie in objects of
// their own, sealed with the meta keyset, and are fetched when first asked for. Its
// first object has all three secrets; each later one, made after a rotation, one
// fresh data key and nothing else. So no secret of a domain is ever written twice, and
// who has deleted its objects has deleted them all.

// ErrNoDomain: the vault has no keys for this domain, neither in its passwords nor in
// objects of their own. What was sealed in it cannot be read.
//
// It is not ErrDamaged: nothing is to be withdrawn because of it, for the objects may be
// put back.
var ErrNoDomain = errors.New("the vault has no keys of this domain: they were shredded, or are lost")

// ApartObject is one stored object with keys of a domain.
type ApartObject struct {
	Name   string // of the object in its store; the seal is bound to it
	Sealed []byte
}

// Source fetches the objects of a domain apart; none: there is no such domain.
type Source func(d id.Domain) ([]ApartObject, error)

// MaxApart bounds an object with keys of a domain, in bytes.
const MaxApart = 16 << 10

// apartJSON is what is sealed in one.
type apartJSON struct {
	Format     int             `json:"format"`
	Vault      id.Vault        `json:"vault"`
	Domain     id.Domain       `json:"domain"`
	Generation int             `json:"generation,omitempty"` // of the vault's keys when it was made
	IDKey      []byte          `json:"id_key,omitempty"`     // first object only
	CutKey     []byte          `json:"cut_key,omitempty"`    // first object only
	Data       json.RawMessage `json:"data"`                 // a keyset of one key
}

// FetchFrom lets k use domains apart, whose objects source fetches. It is called once,
// before k is used.
func (k *Keys) FetchFrom(source Source) { k.h.source = source }

// NewApart makes the secrets of a domain apart, as an object of this name. It needs
// PartMeta.
func (k *Keys) NewApart(d id.Domain, name string) ([]byte, error) {
	j := apartJSON{IDKey: make([]byte, 32), CutKey: make([]byte, 32)}
	_, _ = rand.Read(j.IDKey) // never fails since Go 1.24
	_, _ = rand.Read(j.CutKey)
	return k.sealApart(j, d, name)
}

// MoreApart makes a fresh data key for a domain apart, as a further object: what is
// sealed once k has fetched it again ([Keys.Refetch]) is sealed with that.
func (k *Keys) MoreApart(d id.Domain, name string) ([]byte, error) {
	return k.sealApart(apartJSON{}, d, name)
}

func (k *Keys) sealApart(j apartJSON, d id.Domain, name string) ([]byte, error) {
	b, err := newBox()
	for err == nil && j.IDKey == nil {
		var old *box
		if old, err = k.data(d); err == nil && !old.holds(b.primary) {
			break // a key id says which key it is
		} else if err == nil {
			b, err = newBox()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make keys of domain %s: %w", d, err)
	}
	j.Format, j.Vault, j.Domain, j.Generation = Format, k.h.vault, d, k.h.generation
	if j.Data, err = b.json(); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("make keys of domain %s: %w", d, err)
	}
	defer clear(plain)
	return k.SealMeta(nil, TypeDomain, []byte(name), plain)
}

// Refetch has k look at the objects of a domain apart again when next it needs its keys.
func (k *Keys) Refetch(d id.Domain) {
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	delete(k.h.apart, d)
}

// Newest is the generation of the newest keys that a domain apart has, which is that of
// the vault's keys when they were made. ErrNoDomain without any.
func (k *Keys) Newest(d id.Domain) (int, error) {
	dk, err := k.domain(d)
	if err != nil {
		return 0, err
	}
	return dk.newest, nil
}

// domain returns the keys of a domain, fetched if it is one apart.
func (k *Keys) domain(d id.Domain) (*domainKeys, error) {
	if dk := k.h.domains[d]; dk != nil {
		return dk, nil
	}
	if k.h.source == nil || d.IsZero() {
		return nil, ErrNoPart
	}
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	if dk := k.h.apart[d]; dk != nil {
		return dk, nil
	}
	objects, err := k.h.source(d)
	if err != nil {
		return nil, err
	}
	dk, err := k.openApart(d, objects)
	if err != nil {
		return nil, err
	}
	if k.h.apart == nil {
		k.h.apart = map[id.Domain]*domainKeys{}
	}
	k.h.apart[d] = dk
	return dk, nil
}

// openApart puts the keys together. One object that is damaged takes with it what it
// alone has: chunks that were sealed with that key.
func (k *Keys) openApart(d id.Domain, objects []ApartObject) (*domainKeys, error) {
	var all []apartJSON
	var bad error
	for _, o := range objects {
		j, err := k.openApartObject(d, o)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s: %w", o.Name, err))
			continue
		}
		all = append(all, j)
	}
	slices.SortStableFunc(all, func(a, b apartJSON) int { return cmp.Compare(a.Generation, b.Generation) })
	dk := &domainKeys{}
	var data json.RawMessage
	for _, j := range all {
		if len(j.IDKey) == 32 && len(j.CutKey) == 32 && dk.idKey == nil {
			dk.idKey, dk.cutKey = (*[32]byte)(j.IDKey), (*[32]byte)(j.CutKey)
		}
		joined, err := joinKeysets(data, j.Data)
		if err != nil {
			return nil, fmt.Errorf("keys of domain %s: %w", d, err)
		}
		data, dk.newest = joined, max(dk.newest, j.Generation)
	}
	switch {
	case len(objects) == 0:
		return nil, ErrNoDomain
	case dk.idKey == nil && bad == nil:
		return nil, fmt.Errorf("the first object with its keys is missing: %w", ErrNoDomain)
	case dk.idKey == nil:
		return nil, bad
	}
	var err error
	if dk.data, err = boxFromJSON(data); err != nil {
		return nil, fmt.Errorf("keys of domain %s: %w", d, err)
	}
	return dk, nil
}

func (k *Keys) openApartObject(d id.Domain, o ApartObject) (j apartJSON, err error) {
	plain, err := k.OpenMeta(nil, TypeDomain, []byte(o.Name), o.Sealed)
	if err != nil {
		return j, err
	}
	defer clear(plain)
	if json.Unmarshal(plain, &j) != nil { // its error may quote
		return j, fmt.Errorf("keys are not in the known form: %w", ErrDamaged)
	}
	if j.Format > Format {
		return j, fmt.Errorf("keys of format %d, this program knows up to %d: %w", j.Format, Format, ErrNewer)
	}
	if j.Format < 1 || j.Vault != k.h.vault || j.Domain != d || j.Generation < 0 || j.Generation > MaxGeneration {
		return j, fmt.Errorf("keys of domain %s: %w", j.Domain, ErrDamaged)
	}
	_, err = boxFromJSON(j.Data)
	return j, err
}

// keysetJSON is Tink's form as far as joining needs it.
type keysetJSON struct {
	Primary uint32            `json:"primaryKeyId"`
	Key     []json.RawMessage `json:"key"`
}

// joinKeysets adds b's keys to a's; b's primary key is that of both.
func joinKeysets(a, b json.RawMessage) (json.RawMessage, error) {
	if a == nil {
		return b, nil
	}
	var x, y keysetJSON
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return nil, fmt.Errorf("not a Tink keyset: %w", ErrDamaged)
	}
	return json.Marshal(keysetJSON{y.Primary, append(x.Key, y.Key...)})
}
