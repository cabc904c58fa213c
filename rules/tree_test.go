package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
)

const module = "github.com/millrace-backup/millrace"

// source is one parsed Go file.
type source struct {
	path   string // from the root of the tree, with slashes
	folder string
	test   bool // its name ends in _test.go
	lines  int
	syntax *ast.File
}

// tree is all Go code of the module.
type tree struct {
	set     *token.FileSet
	sources []source
}

// problem is one place that breaks a rule.
type problem struct{ where, what, why string }

func (p problem) String() string { return p.where + ": " + p.what + "\n\treason: " + p.why }

// parse reads every Go file under root but those of nested modules, testdata
// and folders whose name begins with a dot or underscore.
func parse(root fs.FS) (*tree, error) {
	t := &tree{set: token.NewFileSet()}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := fs.Stat(root, path.Join(name, "go.mod"))
			hidden := strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata"
			if name != "." && (hidden || nested == nil) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(t.set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		t.sources = append(t.sources, source{
			path: name, folder: path.Dir(name), test: strings.HasSuffix(name, "_test.go"),
			lines: strings.Count(string(text), "\n"), syntax: syntax,
		})
		return nil
	})
	return t, err
}

// shipped yields the files that are not tests.
func (t *tree) shipped() []source {
	var out []source
	for _, s := range t.sources {
		if !s.test {
			out = append(out, s)
		}
	}
	return out
}

// at names a place in the form that editors follow.
func (t *tree) at(n ast.Node) string {
	p := t.set.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// lines counts the source lines of a node, comments and braces included.
func (t *tree) lines(n ast.Node) int {
	return t.set.Position(n.End()).Line - t.set.Position(n.Pos()).Line + 1
}

// checks are all the rules about Go code, by name.
var checks = map[string]func(*tree) []problem{
	"imports go down":       importsGoDown,
	"owned imports":         ownedImports,
	"package comment":       packageComments,
	"sizes":                 sizes,
	"interfaces are narrow": narrowInterfaces,
	"names":                 folderNames,
	"no init":               noInit,
	"error strings":         errorStrings,
	"panics":                panics,
	"clock is an argument":  clockIsAnArgument,
	"finished":              finished,
}

func TestGoCode(t *testing.T) {
	all, err := parse(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	if len(all.sources) < 10 {
		t.Fatalf("only %d Go files found: the rules are looking at the wrong folder", len(all.sources))
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			for _, p := range check(all) {
				t.Error(p)
			}
		})
	}
}
