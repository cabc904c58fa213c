package events

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const pagePath = "../docs/format/facts.md"

// The tables of the page are made from the source, so that page, comments and
// wire form cannot drift apart.
func TestThePageListsEveryFactAndField(t *testing.T) {
	page, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- What follows is made from the source: go test ./events -update -->\n"
	head, tail, ok := strings.Cut(string(page), mark)
	if !ok {
		t.Fatalf("%s has lost its mark", pagePath)
	}
	want := tables(t)
	if *update {
		if err := os.WriteFile(pagePath, []byte(head+mark+want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if tail != want {
		t.Errorf("%s is not what the source says; run go test ./events -update", pagePath)
	}
	for _, kind := range Kinds() {
		if !strings.Contains(want, "\n## "+kind+"\n") {
			t.Errorf("%s has no place in %s", kind, pagePath)
		}
	}
}

// Every type with a Kind method is listed, decoded and documented.
func TestNoFactIsForgotten(t *testing.T) {
	kinds := Kinds()
	for name, doc := range structs(t) {
		if strings.Contains(doc.text, "Written by ") != slices.Contains(kinds, name) {
			t.Errorf("%s: a fact is in Kinds and its comment names its writer and its readers", name)
		}
		if slices.Contains(kinds, name) && !strings.Contains(doc.text, "Read by ") {
			t.Errorf("%s does not say who reads it", name)
		}
	}
	for _, kind := range kinds {
		if f := sample(t, kind); reflect.TypeOf(f).Name() != kind {
			t.Errorf("%s is decoded as %T", kind, f)
		}
	}
}

type structDoc struct {
	text   string
	fields [][3]string // wire name, Go type, comment
}

func structs(t *testing.T) map[string]structDoc {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]structDoc{}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "doc.go" {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			spec := g.Specs[0].(*ast.TypeSpec)
			body, ok := spec.Type.(*ast.StructType)
			if !ok || len(body.Fields.List) > 0 && body.Fields.List[0].Tag == nil { // not a wire form
				continue
			}
			doc := structDoc{text: strings.Join(strings.Fields(g.Doc.Text()), " ") + "\n"}
			for _, f := range body.Fields.List {
				var typ bytes.Buffer
				_ = printer.Fprint(&typ, set, f.Type)
				tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json")
				doc.fields = append(doc.fields, [3]string{tag, typ.String(), strings.TrimSpace(f.Comment.Text())})
			}
			found[spec.Name.Name] = doc
		}
	}
	return found
}

func tables(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	all := structs(t)
	section := func(name string) {
		doc, ok := all[name]
		if !ok {
			t.Fatalf("no struct %s", name)
		}
		var p comment.Parser
		text := (&comment.Printer{}).Markdown(p.Parse(doc.text))
		fmt.Fprintf(&out, "\n## %s\n\n%s\n| field | type | |\n|---|---|---|\n", name, text)
		for _, f := range doc.fields {
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", f[0], wireType(f[1]), f[2])
		}
	}
	kinds := Kinds()
	for _, kind := range kinds {
		section(kind)
	}
	var parts []string
	for name := range all {
		if !slices.Contains(kinds, name) {
			parts = append(parts, name)
		}
	}
	slices.Sort(parts)
	fmt.Fprint(&out, "\n# Parts of facts\n")
	for _, name := range parts {
		section(name)
	}
	return out.String()
}

// wireType says how a Go type goes out.
func wireType(goType string) string {
	switch goType {
	case "[]byte":
		return "bin"
	case "Hash", "id.Vault", "id.Chunk", "id.Object":
		return "bin 32 (" + goType + ")"
	case "UID", "id.Job", "id.Point", "id.Guest", "id.Disk", "id.Key", "id.Domain":
		return "bin 16 (" + goType + ")"
	case "Micros":
		return "int (µs since 1970 UTC)"
	case "string":
		return "str"
	case "map[string]string":
		return "map str → str"
	}
	if of, ok := strings.CutPrefix(goType, "[]"); ok {
		return "array of " + wireType(of)
	}
	if strings.Contains(goType, "int") {
		return "int (" + goType + ")"
	}
	return goType
}
