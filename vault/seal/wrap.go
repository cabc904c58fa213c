package seal

import (
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/xaesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/millrace-backup/millrace/id"
)

// WrapOverhead is how many bytes longer than the secrets their wrapped form is:
// salt 12, nonce 12 and tag 16.
const WrapOverhead = 12 + 12 + 16

// Wrap seals all of k's secrets under kek, the key derived from a password or a
// recovery key. key names it, bound is what else the wrapping depends on (the
// clear part of the envelope).
func (k *Keys) Wrap(kek [32]byte, key id.Key, bound []byte) ([]byte, error) {
	box, err := rawAEAD(kek)
	if err != nil {
		return nil, fmt.Errorf("wrap secrets: %w", err)
	}
	plain, err := k.marshal(PartAll, nil)
	if err != nil {
		return nil, fmt.Errorf("wrap secrets: %w", err)
	}
	defer clear(plain)
	return box.Encrypt(plain, appendAAD(nil, TypeKey, k.h.vault, key, 0, bound))
}

// Unwrap undoes Wrap for vault v: ErrWrongKey when kek is not the key or any
// byte was changed, which nobody can tell apart; ErrDamaged or ErrNewer when the
// secrets inside are not all those of one vault, v.
func Unwrap(kek [32]byte, v id.Vault, key id.Key, bound, wrapped []byte) (*Keys, error) {
	box, err := rawAEAD(kek)
	if err != nil {
		return nil, fmt.Errorf("unwrap secrets: %w", err)
	}
	plain, err := box.Decrypt(wrapped, appendAAD(nil, TypeKey, v, key, 0, bound))
	if err != nil { // Tink's text says no more than this
		return nil, ErrWrongKey
	}
	defer clear(plain)
	k, err := unmarshalKeys(plain)
	if err != nil {
		return nil, err
	}
	if k.h.vault != v || !k.Holds(PartSign|PartMeta, id.Domain{}) {
		return nil, fmt.Errorf("secrets are another vault's, or not all: %w", ErrDamaged)
	}
	return k, nil
}

// rawAEAD is XAES-256-GCM under key, without Tink's key id in front: the
// envelope's name says which key it is.
func rawAEAD(key [32]byte) (tink.AEAD, error) {
	params, err := xaesgcm.NewParameters(xaesgcm.VariantNoPrefix, 12)
	if err != nil {
		return nil, err
	}
	k, err := xaesgcm.NewKey(secretdata.NewBytesFromData(key[:], insecuresecretdataaccess.Token{}), 0, params)
	if err != nil {
		return nil, err
	}
	m := keyset.NewManager()
	keyID, err := m.AddKey(k)
	if err != nil {
		return nil, err
	}
	if err := m.SetPrimary(keyID); err != nil {
		return nil, err
	}
	h, err := m.Handle()
	if err != nil {
		return nil, err
	}
	return aead.New(h)
}
