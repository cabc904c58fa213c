package rules

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const goodComment = `// Package chunk cuts. It is here to be a comment that is long enough for the rule about comments, which asks for
// two hundred characters, because a single line that repeats the name of its package has never helped anyone at all.
package chunk
`

// Each rule is shown a tree that breaks it, and one that does not: a rule that
// cannot fail holds nothing.
func TestRulesCanFail(t *testing.T) {
	long := strings.Repeat("\n", functionLimit)
	for _, c := range []struct {
		rule, file, text string
		bad              bool
	}{
		{"imports go down", "chunk/a.go", "package chunk\nimport _ \"" + module + "/vault\"", true},
		{"imports go down", "chunk/a.go", "package chunk\nimport _ \"" + module + "/id\"", false},
		{"imports go down", "chunk/a_test.go", "package chunk\nimport _ \"" + module + "/vault\"", false},
		{"imports go down", "stages/seal/a.go", "package seal\nimport _ \"" + module + "/stages/delta\"", true},
		{"imports go down", "stages/seal/a_test.go", "package seal\nimport _ \"" + module + "/stages/seal/x\"", false},
		{"imports go down", "drawer/a.go", "package drawer", true},
		{"owned imports", "restore/a.go", "package restore\nimport _ \"github.com/nats-io/nats.go/jetstream\"", true},
		{"owned imports", "flow/a.go", "package flow\nimport _ \"github.com/nats-io/nats.go/jetstream\"", false},
		{"owned imports", "flow/a.go", "package flow\nimport _ \"github.com/nats-io/nats-server/v2/server\"", true},
		{"owned imports", "flow/a_test.go", "package flow\nimport _ \"github.com/nats-io/nats-server/v2/server\"", false},
		{"owned imports", "ledger/a_test.go", "package ledger\nimport _ \"github.com/tink-crypto/tink-go/v2/aead\"", true},
		{"owned imports", "vault/a.go", "package vault\nimport _ \"github.com/google/tink/go/aead\"", true},
		{"package comment", "chunk/a.go", "package chunk", true},
		{"package comment", "chunk/a.go", goodComment, false},
		{"sizes", "chunk/a.go", "package chunk\nfunc f() {" + long + "}", true},
		{"sizes", "chunk/a.go", "package chunk\nfunc f() {\n}", false},
		{"sizes", "chunk/a.go", "package chunk" + strings.Repeat("\n", fileLimit), true},
		{"interfaces are narrow", "chunk/a.go", "package chunk\ntype I interface { A(); B(); C(); D() }", true},
		{"interfaces are narrow", "chunk/a.go", "package chunk\ntype I interface { A(); B(); C() }", false},
		{"names", "vault/util/a.go", "package util", true},
		{"names", "vault/a.go", "package vault", false},
		{"no init", "chunk/a.go", "package chunk\nfunc init() {}", true},
		{"no init", "chunk/a.go", "package chunk\ntype t int\nfunc (t) init() {}", false},
		{"error strings", "chunk/a.go", "package chunk\nvar e = errors.New(\"failed to cut\")", true},
		{"error strings", "chunk/a.go", "package chunk\nvar e = fmt.Errorf(\"Cutting: %w\", x)", true},
		{"error strings", "chunk/a.go", "package chunk\nvar e = fmt.Errorf(\"VHDX header: %w\", x)", false},
		{"error strings", "chunk/a.go", "package chunk\nvar e = errors.New(\"cell is too long\")", false},
		{"panics", "chunk/a.go", "package chunk\nfunc f() { panic(\"bad input\") }", true},
		{"panics", "chunk/a.go", "package chunk\nfunc f() { panic(\"chunk: internal error: no key\") }", false},
		{"clock is an argument", "chunk/a.go", "package chunk\nvar t = time.Now()", true},
		{"clock is an argument", "flow/a.go", "package flow\nvar t = time.Now()", false},
		{"finished", "chunk/a.go", "package chunk\n// TO" + "DO: cut", true},
	} {
		got, err := parse(fstest.MapFS{c.file: {Data: []byte(c.text)}})
		if err != nil {
			t.Fatal(err)
		}
		if found := checks[c.rule](got); (len(found) > 0) != c.bad {
			t.Errorf("%s on\n%s\nfound %v, want a problem: %v", c.rule, c.text, found, c.bad)
		}
	}
}

func TestWantedTextOnly(t *testing.T) {
	for text, bad := range map[string]bool{
		"cd /wor" + "k/main":                    true,
		"cat ../share" + "d/x":                  true,
		"https://proxy.golan" + "g.org/":        true,
		"golang.org/x/mod and ./work/main.go":   false,
		"the /srv/vault of docs and /tmp/x are": false,
	} {
		if found := unwantedIn("a.md", []byte("line\n"+text)); (len(found) > 0) != bad {
			t.Errorf("%q: found %v, want a problem: %v", text, found, bad)
		}
	}
}

func TestNestedModulesAreLeftAlone(t *testing.T) {
	got, err := parse(fstest.MapFS{
		"go.mod":              {Data: []byte("module x")},
		"id/a.go":             {Data: []byte("package id")},
		"vault/compat/go.mod": {Data: []byte("module y")},
		"vault/compat/a.go":   {Data: []byte("package compat")},
		"id/testdata/b.go":    {Data: []byte("not Go")},
	})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, s := range got.sources {
		paths = append(paths, s.path)
	}
	if !slices.Equal(paths, []string{"id/a.go"}) {
		t.Errorf("read %v", paths)
	}
}
