package vault

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/seal"
)

// The kinds of keys that open a vault.
const (
	KindPassword = "password"
	KindRecovery = "recovery"
)

const (
	keyPrefix   = "keys/"
	maxEnvelope = 12 << 20 // secrets of maxDomains domains, in base64
	maxLabel    = 200
)

// MaxKeys is how many passwords and recovery keys a vault can have.
const MaxKeys = 64

// KeyName is the name of the object that holds a wrapped key.
func KeyName(k id.Key) string { return keyPrefix + k.String() }

// Key is a password or recovery key of a vault as everyone may see it.
type Key struct {
	ID      id.Key
	Kind    string // KindPassword or KindRecovery
	Label   string // for people
	Created time.Time
	KDF     KDF
	// Generation of the secrets it opens: how often they were rotated before. Keys
	// of an earlier generation than another cannot read what is written now.
	Generation int
}

// envelope is the JSON form of a keys/ object. The order of the last two matters:
// "signature" covers all before it, "wrapped" is bound to all before it; see
// allButLast.
type envelope struct {
	Format  int       `json:"format"`
	Vault   id.Vault  `json:"vault"`
	ID      id.Key    `json:"id"`
	Kind    string    `json:"kind"`
	Label   string    `json:"label"`
	Created time.Time `json:"created"`
	KDF     KDF       `json:"kdf"`

	Generation int    `json:"generation,omitempty"`
	Wrapped    []byte `json:"wrapped"`
	Signature  []byte `json:"signature"`

	bound []byte // what the wrapping is bound to, as read
}

// keySigned is what the signature of a key begins with.
const keySigned = "millrace vault key\n"

// encodeKey returns the bytes of the keys/ object that lets secret open k's
// vault. It is signed, so that damage shows without any secret: what is intact
// and does not open has met the wrong password.
func encodeKey(k *Keys, key Key, secret []byte) ([]byte, error) {
	object := KeyName(key.ID)
	if err := key.KDF.Check(); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", object, err)
	}
	kek, err := key.KDF.Derive(secret)
	if err != nil {
		return nil, fmt.Errorf("wrap %s: %w", object, err)
	}
	e := envelope{Format: Format, Vault: k.Vault(), ID: key.ID, Kind: key.Kind, Label: key.Label, Created: key.Created, KDF: key.KDF, Generation: k.Generation()}
	if e.bound, err = e.wrapBinding(); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", object, err)
	}
	if e.Wrapped, err = k.Wrap(kek, key.ID, e.bound); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", object, err)
	}
	text, err := signJSON(&e, &e.Signature, keySigned, k)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", object, err)
	}
	return text, nil
}

// wrapBinding is what the wrapping of a new envelope is bound to.
func (e *envelope) wrapBinding() ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	unsigned, err := allButLast(text)
	if err != nil {
		return nil, err
	}
	return allButLast(unsigned)
}

// parseEnvelope reads and checks everything about a keys/ object that can be
// checked without its secret. Keys of other vaults than c's, which a Create that
// died leaves behind, give nil.
func parseEnvelope(name string, text []byte, c Config) (*envelope, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, damaged(name, "%v", err)
	}
	if version.Format > Format {
		return nil, newer(name, version.Format)
	}
	e := &envelope{}
	if err := json.Unmarshal(text, e); err != nil {
		return nil, damaged(name, "%v", err)
	}
	if e.Vault != c.ID {
		if e.Vault.IsZero() || nearly(e.Vault, c.ID) {
			return nil, damaged(name, "it names vault %s", e.Vault)
		}
		return nil, nil
	}
	covered, err := c.checkSigned(text, e.Signature, keySigned)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if e.bound, err = allButLast(covered); err != nil {
		return nil, damaged(name, "%v", err)
	}
	if err := e.check(name); err != nil {
		return nil, damaged(name, "%v", err)
	}
	return e, nil
}

// nearly reports that two ids share half their bytes. Ids of two vaults do not:
// one was the other before something hit it.
func nearly(a, b id.Vault) bool {
	same := 0
	for i := range a {
		if a[i] == b[i] {
			same++
		}
	}
	return same >= len(a)/2
}

func (e *envelope) check(name string) error {
	if e.Format < 1 {
		return fmt.Errorf("format %d", e.Format)
	}
	if KeyName(e.ID) != name {
		return fmt.Errorf("holds key %s", e.ID)
	}
	want := map[string]string{KindPassword: kdf.Password, KindRecovery: kdf.Recovery}[e.Kind]
	if want == "" || e.KDF.Name != want {
		return fmt.Errorf("a key of kind %q by %q", e.Kind, e.KDF.Name)
	}
	if err := checkLabel(e.Label); err != nil {
		return err
	}
	if len(e.Wrapped) < seal.WrapOverhead {
		return fmt.Errorf("%d wrapped bytes", len(e.Wrapped))
	}
	return e.KDF.Check()
}

// checkLabel keeps labels printable: they are shown before anything is authenticated.
func checkLabel(label string) error {
	if len(label) > maxLabel || !utf8.ValidString(label) || strings.ContainsFunc(label, unicode.IsControl) {
		return fmt.Errorf("label %.40q is too long or not printable", label)
	}
	return nil
}

func (e *envelope) key() Key {
	return Key{ID: e.ID, Kind: e.Kind, Label: e.Label, Created: e.Created.UTC(), KDF: e.KDF, Generation: e.Generation}
}

// unwrap opens the envelope with secret: ErrWrongKey when it is not the one.
func (e *envelope) unwrap(secret []byte) (*Keys, error) {
	kek, err := e.KDF.Derive(secret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", KeyName(e.ID), err)
	}
	k, err := seal.Unwrap(kek, e.Vault, e.ID, e.bound, e.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", KeyName(e.ID), err)
	}
	if k.Generation() != e.Generation {
		return nil, damaged(KeyName(e.ID), "it says generation %d and its secrets %d", e.Generation, k.Generation())
	}
	return k, nil
}
