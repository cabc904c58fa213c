package vault

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/seal"
)

// The kinds of keys that open a vault.
const (
	KindPassword = "password"
	KindRecovery = "recovery"
)

const (
	keyPrefix   = "keys/"
	maxEnvelope = 4 << 20 // secrets of maxDomains domains
	maxKeys     = 64
	maxLabel    = 200
)

// KeyName is the name of the object that holds a wrapped key.
func KeyName(k id.Key) string { return keyPrefix + k.String() }

// Key is a password or recovery key of a vault as everyone may see it.
type Key struct {
	ID      id.Key
	Kind    string // KindPassword or KindRecovery
	Label   string // for people
	Created time.Time
	KDF     KDF
}

// envelope is the JSON form of a keys/ object. "wrapped" is last because the
// rest is what it is bound to, see clearPart.
type envelope struct {
	Format  int       `json:"format"`
	Vault   id.Vault  `json:"vault"`
	ID      id.Key    `json:"id"`
	Kind    string    `json:"kind"`
	Label   string    `json:"label"`
	Created time.Time `json:"created"`
	KDF     KDF       `json:"kdf"`
	Wrapped []byte    `json:"wrapped"`

	clear []byte // as read
}

// wrap returns the bytes of the keys/ object that lets secret open k's vault.
func wrap(k *Keys, key Key, secret []byte) ([]byte, error) {
	if err := key.KDF.check(); err != nil {
		return nil, fmt.Errorf("wrap key %s: %w", id.Short(key.ID), err)
	}
	kek, err := key.KDF.derive(secret)
	if err != nil {
		return nil, fmt.Errorf("wrap key %s: %w", id.Short(key.ID), err)
	}
	e := envelope{Format: Format, Vault: k.Vault(), ID: key.ID, Kind: key.Kind, Label: key.Label, Created: key.Created, KDF: key.KDF}
	return encodeClosed(&e, func(bound []byte) (err error) {
		e.Wrapped, err = k.Wrap(kek, key.ID, bound)
		return err
	})
}

// parseEnvelope reads and checks everything about a keys/ object that can be
// checked without its secret.
func parseEnvelope(name string, text []byte) (*envelope, error) {
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
	var err error
	if e.clear, err = clearPart(text); err != nil {
		return nil, damaged(name, "%v", err)
	}
	if err := e.check(name); err != nil {
		return nil, damaged(name, "%v", err)
	}
	return e, nil
}

func (e *envelope) check(name string) error {
	if e.Format < 1 {
		return fmt.Errorf("format %d", e.Format)
	}
	if KeyName(e.ID) != name {
		return fmt.Errorf("holds key %s", e.ID)
	}
	want := map[string]string{KindPassword: kdfPassword, KindRecovery: kdfRecovery}[e.Kind]
	if want == "" || e.KDF.Name != want {
		return fmt.Errorf("a key of kind %q by %q", e.Kind, e.KDF.Name)
	}
	if err := checkLabel(e.Label); err != nil {
		return err
	}
	if len(e.Wrapped) < seal.WrapOverhead {
		return fmt.Errorf("%d wrapped bytes", len(e.Wrapped))
	}
	return e.KDF.check()
}

// checkLabel keeps labels printable: they are shown before anything is authenticated.
func checkLabel(label string) error {
	if len(label) > maxLabel || !utf8.ValidString(label) || strings.ContainsFunc(label, unicode.IsControl) {
		return fmt.Errorf("label %.40q is too long or not printable", label)
	}
	return nil
}

func (e *envelope) key() Key {
	return Key{ID: e.ID, Kind: e.Kind, Label: e.Label, Created: e.Created.UTC(), KDF: e.KDF}
}

// unwrap opens the envelope with secret. It returns ErrWrongKey when the secret
// is not the one, or the envelope was tampered with, which nobody can tell apart.
func (e *envelope) unwrap(secret []byte) (*Keys, error) {
	kek, err := e.KDF.derive(secret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", KeyName(e.ID), err)
	}
	k, err := seal.Unwrap(kek, e.Vault, e.ID, e.clear, e.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", KeyName(e.ID), err)
	}
	return k, nil
}
