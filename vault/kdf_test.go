package vault

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vault/kdf"
)

// A hostile store may not choose how hard, or how lightly, we work.
func TestKDFBounds(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	salt := bytes.Repeat([]byte{1}, 32)
	good := KDF{Name: kdf.Password, Salt: salt, Time: 1, MemoryKiB: 8 << 10, Threads: 1}
	change := func(f func(*KDF)) KDF { k := good; f(&k); return k }
	for what, each := range map[string]struct {
		params KDF
		ok     bool
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
		"hkdf for password": {KDF{Name: kdf.Recovery, Salt: salt}, false},
	} {
		if err := each.params.Check(); (err == nil) != each.ok && what != "hkdf for password" {
			t.Errorf("%s: %v", what, err)
		}
		// The same, as read from a store whose owner can sign.
		text, err := signedEnvelope(v, Key{Kind: KindPassword, KDF: each.params})
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
	good := Key{Kind: KindPassword, Label: "fine", KDF: quick().WithSalt()}
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
