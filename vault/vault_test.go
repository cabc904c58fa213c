package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/kdf"
	"github.com/millrace-backup/millrace/vault/seal"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

func TestCreateThenOpen(t *testing.T) {
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	made, recovery, err := Create(t.Context(), st, []byte(password), CreateOptions{Now: noon}) // the real KDF
	if err != nil {
		t.Fatal(err)
	}
	if made.ID != id.Vault(sha256.Sum256(made.Config.SigningKey)) {
		t.Error("the vault's id is not the hash of its signing key")
	}
	for what, secret := range map[string]string{
		"password":              password,
		"recovery key":          recovery,
		"recovery key, sloppy":  "  " + strings.ToLower(strings.ReplaceAll(recovery, "-", " ")) + "\n",
		"recovery key, crammed": strings.ReplaceAll(recovery, "-", ""),
	} {
		v, err := Open(t.Context(), st, []byte(secret))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !reflect.DeepEqual(v.Config, made.Config) || v.ID != made.ID {
			t.Errorf("%s: config differs:\n%+v\n%+v", what, v.Config, made.Config)
		}
		d := v.Config.DefaultDomain
		sealed, err := made.Keys.SealChunk(nil, d, id.Chunk{1}, []byte("frame"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.Keys.OpenChunk(nil, d, id.Chunk{1}, sealed); err != nil || string(got) != "frame" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	config, err := ReadConfig(t.Context(), st)
	if err != nil || !reflect.DeepEqual(config, made.Config) {
		t.Errorf("%v\n%+v\n%+v", err, config, made.Config)
	}
	if config.CellSize != 4<<20 || config.BlockSize != 4<<10 || config.Domains[0].Cutter != chunk.Default() || !config.Created.Equal(noon()) {
		t.Errorf("defaults: %+v", config)
	}
}

func TestWhatDoesNotOpen(t *testing.T) {
	st := newMemory()
	_, recovery := newVault(t, st)
	mistyped := []byte(recovery)
	mistyped[10] = map[bool]byte{true: 'B', false: 'A'}[mistyped[10] == 'A']
	for what, secret := range map[string]string{
		"another password": "wrong", "no password": "", "password and more": password + " ",
		"recovery key with a mistake": string(mistyped), "half a recovery key": recovery[:40],
		"another recovery key": kdf.FormatRecovery(make([]byte, 32)), "long": strings.Repeat("x", 1<<20),
	} {
		v, err := Open(t.Context(), st, []byte(secret))
		if v != nil || !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if strings.Contains(what, "recovery key") && !strings.HasPrefix(what, "another") && !strings.Contains(err.Error(), "mistake in it") {
			t.Errorf("%s: the error does not say that it is mistyped: %v", what, err)
		}
	}
	if _, err := Open(t.Context(), newMemory(), []byte(password)); !errors.Is(err, ErrNoVault) {
		t.Errorf("an empty store: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, st, []byte("wrong")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Every byte of a key object and of the description counts: one flipped bit is
// damage, never "wrong password", and never goes unseen.
func TestEveryFlippedByteIsDamage(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	key := keyOf(t, v, KindRecovery)
	for name, read := range map[string]func([]byte) error{
		ConfigName: func(b []byte) error { _, err := parseConfig(b); return err },
		key:        func(b []byte) error { _, err := parseEnvelope(key, b, v.Config); return err },
	} {
		whole := st.objects[name]
		if err := read(whole); err != nil {
			t.Fatal(err)
		}
		for at := range whole {
			bad := bytes.Clone(whole)
			bad[at] ^= 1 << (at % 8)
			if sameMeaning(bad, whole) {
				continue // one kind of white space for another
			}
			if err := read(bad); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("%s, byte %d (%q): %v", name, at, bad[max(0, at-10):min(len(bad), at+10)], err)
			}
		}
	}
}

func sameMeaning(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func TestDamagedKeyDoesNotBarTheOthers(t *testing.T) {
	st := newMemory()
	v, recovery := newVault(t, st)
	name := keyOf(t, v, KindPassword)
	for what, bad := range map[string]string{
		"empty": "", "not JSON": "{", "array": "[1,2]", "null": "null", "huge": strings.Repeat(" ", maxEnvelope+1),
		"cut": string(st.objects[name][:len(st.objects[name])/2]),
	} {
		broken := st.clone()
		broken.objects[name] = []byte(bad)
		if _, err := Open(t.Context(), broken, []byte(recovery)); err != nil {
			t.Errorf("%s: the recovery key does not open any more: %v", what, err)
		}
		_, err := Open(t.Context(), broken, []byte(password))
		if !errors.Is(err, ErrDamaged) || errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	none := st.clone()
	for _, key := range st.names(keyPrefix) {
		delete(none.objects, key)
	}
	if _, err := Open(t.Context(), none, []byte(password)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a vault without keys: %v", err)
	}
}

func TestFormatsOfTheFuture(t *testing.T) {
	st := newMemory()
	v, recovery := newVault(t, st)
	bump := func(name string) *memory {
		c := st.clone()
		c.objects[name] = bytes.Replace(c.objects[name], []byte(`"format": 1`), []byte(`"format": 7`), 1)
		return c
	}
	_, err := Open(t.Context(), bump(ConfigName), []byte(password))
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "7") || !strings.Contains(err.Error(), "1") {
		t.Errorf("a vault of the future: %v", err)
	}
	key := bump(keyOf(t, v, KindPassword))
	if _, err := Open(t.Context(), key, []byte(password)); !errors.Is(err, ErrNewer) || errors.Is(err, ErrWrongKey) {
		t.Errorf("a key of the future: %v", err)
	}
	if _, err := Open(t.Context(), key, []byte(recovery)); err != nil {
		t.Errorf("another key: %v", err)
	}
}

// resign gives changed fields a right signature, as a hostile maker of vaults can.
func resign(t *testing.T, v *Vault, change func(*Config)) []byte {
	t.Helper()
	c := v.Config
	c.Domains = append([]Domain(nil), c.Domains...)
	change(&c)
	text, err := encodeConfig(c, v.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestConfigBounds(t *testing.T) {
	v, _ := newVault(t, newMemory())
	other, _ := newVault(t, newMemory())
	if _, err := parseConfig(resign(t, v, func(*Config) {})); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"format 0":           func(c *Config) { c.Format = 0 },
		"no cells":           func(c *Config) { c.CellSize = 0 },
		"negative cells":     func(c *Config) { c.CellSize = -4096 },
		"uneven cells":       func(c *Config) { c.CellSize = 5 << 20 },
		"huge cells":         func(c *Config) { c.CellSize = 1 << 40 },
		"tiny blocks":        func(c *Config) { c.BlockSize = 1 },
		"no domain":          func(c *Config) { c.Domains = nil },
		"domain twice":       func(c *Config) { c.Domains = append(c.Domains, c.Domains[0]) },
		"too many domains":   func(c *Config) { c.Domains = make([]Domain, maxDomains+1) },
		"stray default":      func(c *Config) { c.DefaultDomain = id.Domain{1} },
		"unknown cutter":     func(c *Config) { c.Domains[0].Cutter.Name = "scissors" },
		"chunk over a cell":  func(c *Config) { c.CellSize = 128 << 10 },
		"another key":        func(c *Config) { c.SigningKey = other.Config.SigningKey },
		"another vault's":    func(c *Config) { c.SigningKey, c.ID = other.Config.SigningKey, other.ID },
		"a short key":        func(c *Config) { c.SigningKey = c.SigningKey[:31] },
		"cutter without max": func(c *Config) { c.Domains[0].Cutter.Max = 0 },
	} {
		if _, err := parseConfig(resign(t, v, change)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Fields that a later version of format 1 adds are signed like the rest.
func TestUnknownFieldsAreSignedToo(t *testing.T) {
	v, _ := newVault(t, newMemory())
	type later struct {
		Config
		Motto     string `json:"motto"`
		Signature []byte `json:"signature"`
	}
	l := later{Config: v.Config, Motto: "festina lente"}
	text, err := signJSON(&l, &l.Signature, configSigned, v.Keys)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseConfig(text); err != nil || !reflect.DeepEqual(got, v.Config) {
		t.Errorf("%v", err)
	}
	if _, err := parseConfig(bytes.Replace(text, []byte("lente"), []byte("lenta"), 1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a changed unknown field: %v", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		t.Fatal(err)
	}
	if _, err := parseConfig(compact.Bytes()); err != nil {
		t.Errorf("without white space: %v", err)
	}
}

func TestSignatures(t *testing.T) {
	v, _ := newVault(t, newMemory())
	signature, err := v.Keys.Sign([]byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Config.Verify([]byte("message"), signature); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another message":   v.Config.Verify([]byte("massage"), signature),
		"another signature": v.Config.Verify([]byte("message"), make([]byte, ed25519.SignatureSize)),
		"no signature":      v.Config.Verify([]byte("message"), nil),
		"no key":            Config{}.Verify([]byte("message"), signature),
	} {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The keys inside must be those of the vault outside, whoever signed what.
func TestSecretsOfAnotherVault(t *testing.T) {
	st, foreign := newMemory(), newMemory()
	v, _ := newVault(t, st)
	other, recovery := newVault(t, foreign)

	// Keys of another vault beside ours: ignored, not ours to judge.
	for _, name := range foreign.names(keyPrefix) {
		st.objects[name] = foreign.objects[name]
	}
	if _, err := Open(t.Context(), st, []byte(recovery)); !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrDamaged) {
		t.Errorf("another vault's recovery key: %v", err)
	}
	if _, err := Open(t.Context(), st, []byte(password)); err != nil {
		t.Errorf("our password beside foreign keys: %v", err)
	}
	// Another vault's description over our keys.
	swapped := st.clone()
	swapped.objects[ConfigName] = foreign.objects[ConfigName]
	if got, err := Open(t.Context(), swapped, []byte(password)); err != nil || got.ID != other.ID {
		t.Errorf("keys of both vaults are there, the description decides: %v", err)
	}
	for _, name := range foreign.names(keyPrefix) {
		delete(swapped.objects, name)
	}
	if _, err := Open(t.Context(), swapped, []byte(password)); !errors.Is(err, ErrDamaged) {
		t.Errorf("another vault's description over our keys: %v", err)
	}
	// Secrets without the signing key, or of a domain less than the vault has.
	bound := []byte("b")
	wrapped, err := other.Keys.Wrap([32]byte{}, id.Key{1}, bound)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Unwrap([32]byte{}, v.ID, id.Key{1}, bound, wrapped); !errors.Is(err, ErrWrongKey) {
		t.Errorf("wrapped for another vault: %v", err)
	}
	less := *v
	less.Config.Domains = append(less.Config.Domains, Domain{id.Domain{7}, chunk.Default()})
	if err := less.match(); !errors.Is(err, ErrDamaged) {
		t.Errorf("a domain without keys: %v", err)
	}
	less = *v
	less.Keys = other.Keys
	if err := less.match(); !errors.Is(err, ErrDamaged) {
		t.Errorf("keys of another vault: %v", err)
	}
}

// Whatever the step at which Create dies, there is a vault that opens, or none.
func TestCreateDiesAtEveryStep(t *testing.T) {
	for step := range 4 {
		st := newMemory()
		st.left = step
		_, _, err := Create(t.Context(), st, []byte(password), CreateOptions{KDF: quick(), Now: noon})
		if (err == nil) != (step == 3) {
			t.Fatalf("step %d: %v", step, err)
		}
		st.left = -1
		_, err = Open(t.Context(), st, []byte(password))
		if step < 3 && !errors.Is(err, ErrNoVault) || step == 3 && err != nil {
			t.Errorf("died after %d changes: %v", step, err)
		}
		if step == 3 && st.order[2] != ConfigName {
			t.Errorf("the description must come last: %v", st.order)
		}
		if step < 3 { // what is left behind does not disturb the next vault
			v, _ := newVault(t, st)
			if got, err := Open(t.Context(), st, []byte(password)); err != nil || got.ID != v.ID {
				t.Errorf("made again after %d changes: %v", step, err)
			}
		}
	}
}

func TestCreateOnce(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	if _, _, err := Create(t.Context(), st, []byte("x"), CreateOptions{KDF: quick()}); !errors.Is(err, ErrVaultExists) {
		t.Errorf("a second vault: %v", err)
	}
	if got, err := Open(t.Context(), st, []byte(password)); err != nil || got.ID != v.ID {
		t.Errorf("the first: %v", err)
	}
	if n := len(st.names(keyPrefix)); n != 2 {
		t.Errorf("%d keys", n)
	}
	for what, o := range map[string]CreateOptions{
		"cheap KDF": {KDF: KDF{Name: kdf.Password, Time: 1, MemoryKiB: 1024, Threads: 1}}, "label": {Label: "a\nb", KDF: quick()},
		"cells": {CellSize: 3, KDF: quick()}, "cutter": {Cutter: chunk.Params{Name: "x"}, KDF: quick()},
	} {
		fresh := newMemory()
		if _, _, err := Create(t.Context(), fresh, []byte(password), o); err == nil || len(fresh.objects) > 0 {
			t.Errorf("%s: %v, %d objects", what, err, len(fresh.objects))
		}
	}
	for _, bad := range []string{"", kdf.FormatRecovery(make([]byte, 32))} {
		if _, _, err := Create(t.Context(), newMemory(), []byte(bad), CreateOptions{KDF: quick()}); err == nil {
			t.Errorf("password %q was taken", bad)
		}
	}
}

func TestManyCreateAtOnce(t *testing.T) {
	st, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	var made []*Vault
	for range 8 {
		wait.Go(func() {
			v, _, err := Create(t.Context(), st, []byte(password), CreateOptions{KDF: quick(), Now: noon})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, v)
			} else if !errors.Is(err, ErrVaultExists) {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if len(made) != 1 {
		t.Fatalf("%d vaults were made", len(made))
	}
	if v, err := Open(t.Context(), st, []byte(password)); err != nil || v.ID != made[0].ID {
		t.Errorf("%v", err)
	}
	n := 0
	for _, err := range st.List(t.Context(), keyPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d keys are left, the losers should have taken theirs away", n)
	}
}

// lying is a store whose puts take effect and then report something else.
type lying struct {
	*memory
	says error
}

func (l lying) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if err := l.memory.PutNew(ctx, name, size, body); err != nil || name != ConfigName {
		return err
	}
	return l.says
}

func TestCreateWhoseLastAnswerIsLost(t *testing.T) {
	m := newMemory()
	if _, _, err := Create(t.Context(), lying{m, store.ErrExists}, []byte(password), CreateOptions{KDF: quick()}); err != nil {
		t.Errorf("the object that exists is ours: %v", err)
	}
	m = newMemory()
	if _, _, err := Create(t.Context(), lying{m, io.ErrClosedPipe}, []byte(password), CreateOptions{KDF: quick()}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
	if _, err := Open(t.Context(), m, []byte(password)); err != nil {
		t.Errorf("the vault is there, its keys must be too: %v", err)
	}
}

func TestAddAndRemoveKeys(t *testing.T) {
	st := newMemory()
	v, recovery := newVault(t, st)
	added, err := addPassword(t.Context(), v, []byte("second"), "laptop <& \"é\">", quick(), noon())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{password, "second", recovery} {
		if _, err := Open(t.Context(), st, []byte(secret)); err != nil {
			t.Errorf("%q: %v", secret, err)
		}
	}
	var labels []string
	for k, err := range ReadKeys(t.Context(), st, v.Config) {
		if err != nil {
			t.Fatal(err)
		}
		labels = append(labels, k.Kind+" "+k.Label)
		if k.ID == added.ID && !reflect.DeepEqual(k, added) {
			t.Errorf("%+v\n%+v", k, added)
		}
	}
	if len(labels) != 3 || !strings.Contains(strings.Join(labels, "|"), added.Label) {
		t.Errorf("%q", labels)
	}
	if err := st.Delete(t.Context(), KeyName(added.ID)); err != nil {
		t.Error(err)
	}
	if _, err := Open(t.Context(), st, []byte("second")); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a removed password: %v", err)
	}
}

// What opens cannot be told from a damaged key object; which one it is can.
func TestADamagedKeyHasAName(t *testing.T) {
	st := newMemory()
	v, recovery := newVault(t, st)
	name := keyOf(t, v, KindPassword)
	st.objects[name][100] ^= 1
	st.objects[keyPrefix+"junk"] = []byte("{}")
	seen := map[id.Key]error{}
	for k, err := range ReadKeys(t.Context(), st, v.Config) {
		seen[k.ID] = err
	}
	if err := seen[keyID(t, name)]; len(seen) != 3 || !errors.Is(err, ErrDamaged) || !errors.Is(seen[id.Key{}], ErrDamaged) {
		t.Errorf("%v", seen)
	}
	if _, err := Open(t.Context(), st, []byte(recovery)); err != nil {
		t.Error(err)
	}
}

// addPassword prepares and stores.
func addPassword(ctx context.Context, v *Vault, password []byte, label string, how KDF, now time.Time) (Key, error) {
	p, err := v.PreparePassword(password, label, how, now)
	if err == nil {
		err = v.AddKey(ctx, p)
	}
	return p.Key, err
}

func keyID(t *testing.T, name string) (k id.Key) {
	t.Helper()
	if err := k.UnmarshalText([]byte(strings.TrimPrefix(name, keyPrefix))); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTooManyKeys(t *testing.T) {
	st := newMemory()
	v, _ := newVault(t, st)
	for range MaxKeys - 2 {
		k := Key{ID: id.NewKey(), Kind: KindRecovery, KDF: KDF{Name: kdf.Recovery}.WithSalt()}
		text, err := signedEnvelope(v, k) // wraps nothing, but is intact
		if err != nil {
			t.Fatal(err)
		}
		st.objects[KeyName(k.ID)] = text
	}
	if _, err := addPassword(t.Context(), v, []byte("by force"), "", quick(), noon()); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), st, []byte("not a password"))
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("a key too many: %v", err)
	}
}
