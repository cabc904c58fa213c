package kdf

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// Known answers, from the argon2 command of the reference implementation
// ("argon2 saltsaltsaltsalt -id -t 2 -m 13 -p 2 -l 32" with "password" on stdin)
// and from HKDF's definition with HMAC-SHA-256.
func TestKnownAnswers(t *testing.T) {
	for _, each := range []struct {
		params Params
		secret string
		want   string
	}{
		{Params{Name: Password, Salt: []byte("saltsaltsaltsalt"), Time: 2, MemoryKiB: 8192, Threads: 2}, "password", "296cffab843cc13b3aa8be59ab385246e10bfa8c3626ef0d9be6cb72856287fe"},
		{Params{Name: Recovery, Salt: []byte("saltsaltsaltsalt")}, strings.Repeat("k", 32), "2b756d500dfb3bf05cc0b7677cc604c75964c37ced7df4268f52fb82e6f172e1"},
	} {
		got, err := each.params.Derive([]byte(each.secret))
		if err != nil || hex.EncodeToString(got[:]) != each.want {
			t.Errorf("%s: %x, want %s (%v)", each.params.Name, got, each.want, err)
		}
	}
}

// recoveryAnswer is the text of 16 times a5 5a, computed with Python's base64 and
// hashlib.
const recoveryAnswer = "MRK1-UVNK-KWVF-LKSV-VJK2-UVNK-KWVF-LKSV-VJK2-UVNK-KWVF-LKSV-VJK2-UVND-ND7V"

func TestRecoveryKeyText(t *testing.T) {
	secret := bytes.Repeat([]byte{0xa5, 0x5a}, 16)
	const want = recoveryAnswer
	if got := FormatRecovery(secret); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(want) != 74 {
		t.Errorf("%d characters", len(want))
	}
	for _, text := range []string{want, strings.ToLower(want), strings.ReplaceAll(want, "-", ""), strings.ReplaceAll(want, "-", "\r\n "),
		strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(want)} {
		got, looksLike, ok := ParseRecovery([]byte(text))
		if !ok || !looksLike || !bytes.Equal(got, secret) {
			t.Errorf("%q: %x, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "MRK2" + want[4:], "x" + want, strings.Repeat("M", 5000)} {
		if _, looksLike, ok := ParseRecovery([]byte(text)); ok || looksLike {
			t.Errorf("%.20q was taken for a recovery key", text)
		}
	}
	for i := len("MRK1-"); i < len(want); i++ {
		if want[i] == '-' {
			continue
		}
		typo := []byte(want)
		typo[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567A"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", typo[i])+1]
		if _, looksLike, ok := ParseRecovery(typo); ok || !looksLike {
			t.Errorf("a wrong character at %d is not noticed", i)
		}
	}
	for n := range len(want) {
		if _, _, ok := ParseRecovery([]byte(want[:n])); ok {
			t.Errorf("the first %d characters are taken for all", n)
		}
	}
	seen := map[string]bool{}
	for range 100 {
		_, text := NewRecovery()
		seen[text] = true
	}
	if len(seen) != 100 {
		t.Error("recovery keys repeat")
	}
}

func FuzzParseRecovery(f *testing.F) {
	f.Add([]byte(recoveryAnswer))
	f.Add([]byte("MRK1-"))
	f.Fuzz(func(t *testing.T, text []byte) {
		secret, _, ok := ParseRecovery(text)
		if !ok {
			return
		}
		again, _, ok := ParseRecovery([]byte(FormatRecovery(secret)))
		if !ok || !bytes.Equal(again, secret) {
			t.Fatalf("%x is written and read as %x", secret, again)
		}
	})
}
