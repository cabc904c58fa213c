package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/kdf"
)

// canaries are the secrets of v in every spelling that a print could have.
func canaries(t *testing.T, v *Vault) []string {
	t.Helper()
	d := v.Config.DefaultDomain
	idKey, err := v.Keys.IDKey(d)
	if err != nil {
		t.Fatal(err)
	}
	cutKey, err := v.Keys.CutKey(d)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := v.Keys.Grant(PartAll)
	if err != nil {
		t.Fatal(err)
	}
	var secrets struct {
		SigningKey []byte `json:"signing_key"`
		Meta       struct {
			Key []struct{ KeyData struct{ Value []byte } }
		}
		Domains []struct {
			Data struct {
				Key []struct{ KeyData struct{ Value []byte } }
			}
		}
	}
	if err := json.Unmarshal(grant, &secrets); err != nil {
		t.Fatal(err)
	}
	raw := [][]byte{idKey[:], cutKey[:], secrets.SigningKey}
	// A Tink key is a small protobuf that ends with the key's 32 bytes or holds them.
	for _, value := range [][]byte{secrets.Meta.Key[0].KeyData.Value, secrets.Domains[0].Data.Key[0].KeyData.Value} {
		if len(value) < 32 {
			t.Fatalf("a Tink key of %d bytes", len(value))
		}
		raw = append(raw, value[len(value)-24:])
	}
	var out []string
	for _, b := range raw {
		middle := b[4:20] // part of a secret is a secret
		out = append(out, string(middle), hex.EncodeToString(middle), strings.ToUpper(hex.EncodeToString(middle)),
			strings.Trim(fmt.Sprint(middle), "[]"), strings.Trim(fmt.Sprintf("%#v", middle), "[]byte{}"),
			base64.StdEncoding.EncodeToString(b[6:18]), base64.StdEncoding.EncodeToString(b[4:19]), base64.StdEncoding.EncodeToString(b[5:20]))
	}
	return append(out, password)
}

// No way of printing anything exported shows a secret.
func TestNothingPrintsSecrets(t *testing.T) {
	st := newMemory()
	v, recovery := newVault(t, st)
	secret, _, _ := kdf.ParseRecovery([]byte(recovery))
	forbidden := append(canaries(t, v), recovery, hex.EncodeToString(secret))
	info, _ := filled(t, v, st, 2)
	w, err := NewPackWriter(t.Context(), st, v.Keys, testJob, v.Config.DefaultDomain)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	var keys []Key
	for k, err := range ReadKeys(t.Context(), st, v.Config) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	_, wrong := Open(t.Context(), st, []byte(password+"?"))
	_, noPart := v.Keys.IDKey(id.Domain{1})
	_, badGrant := LoadGrant([]byte(`{"format":1,"signing_key":"` + password + `"}`))
	values := map[string]any{
		"vault": v, "vault by value": *v, "keys": v.Keys, "keys by value": *v.Keys, "config": v.Config, "options": CreateOptions{KDF: quick()},
		"pack": info, "pack writer": w, "keys listed": keys, "errors": errors.Join(wrong, noPart, badGrant),
		"nested": map[string]any{"a": []any{v.Keys, *v.Keys, struct{ K *Keys }{v.Keys}, struct{ K Keys }{*v.Keys}}},
	}
	for what, value := range values {
		for how, text := range prints(value) {
			for _, c := range forbidden {
				if strings.Contains(text, c) {
					t.Errorf("%s by %s shows a secret (%q…)", what, how, c[:4])
				}
			}
		}
	}
	// The test itself must be able to fail.
	idKey, _ := v.Keys.IDKey(v.Config.DefaultDomain)
	for _, how := range []string{"%v", "%x", "%X", "%#v", "%s"} {
		if text := fmt.Sprintf(how, idKey[:]); !containsAny(text, forbidden) {
			t.Errorf("a key printed by %s is not recognised: %s", how, text)
		}
	}
	if text, _ := json.Marshal(idKey[:]); !containsAny(string(text), forbidden) {
		t.Errorf("a key in JSON is not recognised: %s", text)
	}
}

func containsAny(text string, of []string) bool {
	for _, c := range of {
		if strings.Contains(text, c) {
			return true
		}
	}
	return false
}

func prints(value any) map[string]string {
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%t", "%p"} {
		out[verb] = fmt.Sprintf(verb, value)
	}
	text, err := json.Marshal(value)
	out["json"] = fmt.Sprint(string(text), err)
	wire, err := msgpack.Marshal(value)
	out["msgpack"] = fmt.Sprint(string(wire), err)
	text, err = xml.Marshal(value)
	out["xml"] = fmt.Sprint(string(text), err)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "value", value)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "value", value)
	out["slog"] = log.String()
	return out
}

func TestKeysPrintAsStars(t *testing.T) {
	v, _ := newVault(t, newMemory())
	for how, text := range prints(v.Keys) {
		if !strings.Contains(text, "***") && how != "%T" && how != "%p" && how != "xml" && how != "msgpack" {
			t.Errorf("%s: %s", how, text)
		}
	}
	if !strings.Contains(v.Keys.String()+v.Keys.GoString(), "***") {
		t.Error("String and GoString")
	}
}
