package kdf

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"
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

// NewRecovery makes a recovery key: the secret itself and the text that people keep.
func NewRecovery() (secret []byte, text string) {
	secret = make([]byte, recoverySize)
	_, _ = rand.Read(secret) // never fails since Go 1.24
	return secret, FormatRecovery(secret)
}

// FormatRecovery returns the text of a recovery key of 32 bytes.
func FormatRecovery(secret []byte) string {
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

// ParseRecovery reads a recovery key in any case and grouping; 0, 1 and 8, which
// base32 does not have, are taken for the letters they look like. looksLike says
// that the text was meant to be one, ok that it is one.
func ParseRecovery(text []byte) (secret []byte, looksLike, ok bool) {
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
