package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-backup/millrace/vault/store"
)

// The recovery key as people keep it: "MRK1-" and 14 groups of four letters and
// digits (RFC 4648 base32), 74 characters in all. The 35 bytes are 32 random ones
// and the first three of a SHA-256 over them, which catches a typing mistake with
// all but 1 in 16 million certainty.
const (
	recoveryPrefix = "MRK1"
	recoverySize   = 32
	recoverySum    = 3
	recoveryGroup  = 4
)

func recoveryBase32() *base32.Encoding { return base32.StdEncoding.WithPadding(base32.NoPadding) }

func newRecovery() (secret []byte, text string) {
	secret = make([]byte, recoverySize)
	_, _ = rand.Read(secret) // never fails since Go 1.24
	return secret, formatRecovery(secret)
}

func formatRecovery(secret []byte) string {
	digits := recoveryBase32().EncodeToString(append(bytes.Clone(secret), recoveryChecksum(secret)...))
	groups := []string{recoveryPrefix}
	for ; digits != ""; digits = digits[recoveryGroup:] {
		groups = append(groups, digits[:recoveryGroup])
	}
	return strings.Join(groups, "-")
}

func recoveryChecksum(secret []byte) []byte {
	sum := sha256.Sum256(append([]byte("millrace recovery key\x00"), secret...))
	return sum[:recoverySum]
}

// parseRecovery reads a recovery key in any case and grouping; 0, 1 and 8, which
// base32 does not have, are taken for the letters they look like. looksLike says
// that the text was meant to be one, ok that it is one.
func parseRecovery(text []byte) (secret []byte, looksLike, ok bool) {
	if len(text) > 1024 {
		return nil, false, false
	}
	plain := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, strings.ToUpper(string(text)))
	digits, looksLike := strings.CutPrefix(plain, recoveryPrefix)
	if !looksLike {
		return nil, false, false
	}
	digits = strings.NewReplacer("0", "O", "1", "I", "8", "B").Replace(digits)
	all, err := recoveryBase32().DecodeString(digits)
	if err != nil || len(all) != recoverySize+recoverySum {
		return nil, true, false
	}
	secret = all[:recoverySize]
	return secret, true, bytes.Equal(all[recoverySize:], recoveryChecksum(secret))
}

// Rescue opens a vault whose "vault" object is lost by its keys; ErrNoVault without one.
func Rescue(ctx context.Context, st store.Store, password []byte) (*Vault, error) {
	found := ErrNoVault
	for entry, err := range st.List(ctx, keyPrefix) {
		if err != nil {
			return nil, fmt.Errorf("rescue vault: %w", err)
		}
		k, err := rescue(ctx, st, entry.Name, password)
		if err == nil {
			return &Vault{k.Vault(), Config{Format: Format, ID: k.Vault(), SigningKey: k.Public(), CellSize: 4 << 20, BlockSize: 4 << 10}, st, k}, nil
		}
		found = errors.Join(found, err)
	}
	return nil, fmt.Errorf("rescue vault: %w", found)
}

func rescue(ctx context.Context, st store.Store, name string, password []byte) (*Keys, error) {
	text, err := store.ReadAll(ctx, st, name, maxEnvelope)
	unsigned, err2 := allButLast(text)
	bound, err3 := allButLast(unsigned)
	e := envelope{bound: bound}
	if err := errors.Join(err, err2, err3, json.Unmarshal(text, &e), e.check(name)); err != nil {
		return nil, damaged(name, "%v", err)
	}
	if secret, _, isRecovery := parseRecovery(password); isRecovery {
		password = secret
	}
	return e.unwrap(password)
}
