package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// A hostile store may not choose how hard, or how lightly, we work.
func TestKDFBounds(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	salt := bytes.Repeat([]byte{1}, 32)
	good := KDF{Name: kdfPassword, Salt: salt, Time: 1, MemoryKiB: 8 << 10, Threads: 1}
	change := func(f func(*KDF)) KDF { k := good; f(&k); return k }
	for what, each := range map[string]struct {
		kdf KDF
		ok  bool
	}{
		"cheapest":          {good, true},
		"dearest":           {change(func(k *KDF) { k.Time, k.MemoryKiB, k.Threads = 16, 1<<20, 16 }), true},
		"too little memory": {change(func(k *KDF) { k.MemoryKiB-- }), false},
		"too much memory":   {change(func(k *KDF) { k.MemoryKiB = 1<<20 + 1 }), false},
		"all memory":        {change(func(k *KDF) { k.MemoryKiB = 1<<32 - 1 }), false},
		"no pass":           {change(func(k *KDF) { k.Time = 0 }), false},
		"many passes":       {change(func(k *KDF) { k.Time = 17 }), false},
		"no lanes":          {change(func(k *KDF) { k.Threads = 0 }), false},
		"many lanes":        {change(func(k *KDF) { k.Threads = 17 }), false},
		"short salt":        {change(func(k *KDF) { k.Salt = salt[:15] }), false},
		"long salt":         {change(func(k *KDF) { k.Salt = make([]byte, 65) }), false},
		"another name":      {change(func(k *KDF) { k.Name = "md5" }), false},
		"hkdf for password": {KDF{Name: kdfRecovery, Salt: salt}, false},
	} {
		if err := each.kdf.check(); (err == nil) != each.ok && what != "hkdf for password" {
			t.Errorf("%s: %v", what, err)
		}
		// The same, as read from a store whose owner can sign.
		text, err := signedEnvelope(v, Key{Kind: KindPassword, KDF: each.kdf})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseEnvelope(KeyName(Key{}.ID), text, v.Config); (err == nil) != each.ok || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s, read: %v", what, err)
		}
	}
}

// signedEnvelope signs an envelope without looking at what is in it.
func signedEnvelope(v *Vault, key Key) ([]byte, error) {
	e := envelope{Format: Format, Vault: v.ID, ID: key.ID, Kind: key.Kind, Label: key.Label, Created: noon(), KDF: key.KDF, Wrapped: make([]byte, 100)}
	return signJSON(&e, &e.Signature, keySigned, v.Keys)
}

func TestEnvelopeBounds(t *testing.T) {
	v, _ := newVault(t, newMemory())
	good := Key{Kind: KindPassword, Label: "fine", KDF: quick().withSalt()}
	for what, change := range map[string]func(*Key){
		"another object's": func(k *Key) { k.ID[0] = 1 },
		"unknown kind":     func(k *Key) { k.Kind = "kms" },
		"recovery by hash": func(k *Key) { k.Kind = KindRecovery },
		"escape in label":  func(k *Key) { k.Label = "\x1b[31mred" },
		"long label":       func(k *Key) { k.Label = strings.Repeat("x", 201) },
	} {
		k := good
		change(&k)
		text, err := signedEnvelope(v, k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseEnvelope(KeyName(good.ID), text, v.Config); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Known answers, from the argon2 command of the reference implementation
// ("argon2 saltsaltsaltsalt -id -t 2 -m 13 -p 2 -l 32" with "password" on stdin)
// and from HKDF's definition with HMAC-SHA-256.
func TestKDFKnownAnswers(t *testing.T) {
	for _, each := range []struct {
		kdf    KDF
		secret string
		want   string
	}{
		{KDF{Name: kdfPassword, Salt: []byte("saltsaltsaltsalt"), Time: 2, MemoryKiB: 8192, Threads: 2}, "password", "296cffab843cc13b3aa8be59ab385246e10bfa8c3626ef0d9be6cb72856287fe"},
		{KDF{Name: kdfRecovery, Salt: []byte("saltsaltsaltsalt")}, strings.Repeat("k", 32), "2b756d500dfb3bf05cc0b7677cc604c75964c37ced7df4268f52fb82e6f172e1"},
	} {
		got, err := each.kdf.derive([]byte(each.secret))
		if err != nil || hex.EncodeToString(got[:]) != each.want {
			t.Errorf("%s: %x, want %s (%v)", each.kdf.Name, got, each.want, err)
		}
	}
}

// recoveryAnswer is the text of 16 times a5 5a, computed with Python's base64 and
// hashlib.
const recoveryAnswer = "MRK1-UVNK-KWVF-LKSV-VJK2-UVNK-KWVF-LKSV-VJK2-UVNK-KWVF-LKSV-VJK2-UVND-ND7V"

func TestRecoveryKeyText(t *testing.T) {
	secret := bytes.Repeat([]byte{0xa5, 0x5a}, 16)
	const want = recoveryAnswer
	if got := formatRecovery(secret); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(want) != 74 {
		t.Errorf("%d characters", len(want))
	}
	for _, text := range []string{want, strings.ToLower(want), strings.ReplaceAll(want, "-", ""), strings.ReplaceAll(want, "-", "\r\n "),
		strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(want)} {
		got, looksLike, ok := parseRecovery([]byte(text))
		if !ok || !looksLike || !bytes.Equal(got, secret) {
			t.Errorf("%q: %x, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "MRK2" + want[4:], "x" + want, strings.Repeat("M", 5000)} {
		if _, looksLike, ok := parseRecovery([]byte(text)); ok || looksLike {
			t.Errorf("%.20q was taken for a recovery key", text)
		}
	}
	for i := len("MRK1-"); i < len(want); i++ {
		if want[i] == '-' {
			continue
		}
		typo := []byte(want)
		typo[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567A"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", typo[i])+1]
		if _, looksLike, ok := parseRecovery(typo); ok || !looksLike {
			t.Errorf("a wrong character at %d is not noticed", i)
		}
	}
	for n := range len(want) {
		if _, _, ok := parseRecovery([]byte(want[:n])); ok {
			t.Errorf("the first %d characters are taken for all", n)
		}
	}
	seen := map[string]bool{}
	for range 100 {
		_, text := newRecovery()
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
		secret, _, ok := parseRecovery(text)
		if !ok {
			return
		}
		again, _, ok := parseRecovery([]byte(formatRecovery(secret)))
		if !ok || !bytes.Equal(again, secret) {
			t.Fatalf("%x is written and read as %x", secret, again)
		}
	})
}
