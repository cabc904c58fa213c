// Command old is google/tink/go v1.7.0 behind a pipe, for the tests of the
// module above, which cannot link it: it and tink-go/v2 register the same
// protocol buffers and end any program that holds both.
//
// It reads one JSON request from stdin and writes one JSON reply to stdout:
//
//	{"do":"new"}                                              → keyset
//	{"do":"rotate","keyset":K}                                → keyset with a second, now primary, key
//	{"do":"encrypt","keyset":K,"text":plain,"associated":A}   → text
//	{"do":"decrypt","keyset":K,"text":sealed,"associated":A}  → text
//
// Keysets are Tink's JSON form in clear, of AES-256-GCM keys; bytes are base64.
// A request that fails has a reply with an error, and exit code 0.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/google/tink/go/aead"
	"github.com/google/tink/go/insecurecleartextkeyset"
	"github.com/google/tink/go/keyset"
)

type request struct {
	Do         string          `json:"do"`
	Keyset     json.RawMessage `json:"keyset"`
	Text       []byte          `json:"text"`
	Associated []byte          `json:"associated"`
}

type reply struct {
	Keyset json.RawMessage `json:"keyset,omitempty"`
	Text   []byte          `json:"text,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func main() {
	var in request
	err := json.NewDecoder(os.Stdin).Decode(&in)
	var out reply
	if err == nil {
		out, err = answer(in)
	}
	if err != nil {
		out = reply{Error: err.Error()}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, "write reply:", err)
		os.Exit(1)
	}
}

func answer(in request) (reply, error) {
	if in.Do == "new" {
		h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
		if err != nil {
			return reply{}, err
		}
		return write(h)
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(in.Keyset)))
	if err != nil {
		return reply{}, fmt.Errorf("read keyset: %w", err)
	}
	if in.Do == "rotate" {
		m := keyset.NewManagerFromHandle(h)
		if err := m.Rotate(aead.AES256GCMKeyTemplate()); err != nil {
			return reply{}, err
		}
		if h, err = m.Handle(); err != nil {
			return reply{}, err
		}
		return write(h)
	}
	a, err := aead.New(h)
	if err != nil {
		return reply{}, fmt.Errorf("use keyset: %w", err)
	}
	switch in.Do {
	case "encrypt":
		text, err := a.Encrypt(in.Text, in.Associated)
		return reply{Text: text}, err
	case "decrypt":
		text, err := a.Decrypt(in.Text, in.Associated)
		return reply{Text: text}, err
	}
	return reply{}, fmt.Errorf("unknown request %q", in.Do)
}

func write(h *keyset.Handle) (reply, error) {
	var buf bytes.Buffer
	err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&buf))
	return reply{Keyset: buf.Bytes()}, err
}
