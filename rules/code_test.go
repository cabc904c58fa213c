package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A size at or above one of these is a package, file or function that has
// become two.
const (
	packageLimit  = 1500
	fileLimit     = 500
	functionLimit = 80
	methodLimit   = 3
)

const whySize = "what cannot be read in one sitting is not reviewed: split it along its words (style: traps seen, god package)"

func sizes(t *tree) (out []problem) {
	packages := map[string]int{}
	for _, s := range t.shipped() {
		packages[s.folder] += s.lines
		if s.lines >= fileLimit {
			out = append(out, problem{s.path, fmt.Sprintf("%d lines, limit %d", s.lines, fileLimit), whySize})
		}
		for _, d := range s.syntax.Decls {
			f, ok := d.(*ast.FuncDecl)
			if n := t.lines(d); ok && n >= functionLimit {
				out = append(out, problem{t.at(d), fmt.Sprintf("function %s has %d lines, limit %d", f.Name.Name, n, functionLimit), whySize})
			}
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(packages)) {
		if n := packages[folder]; n >= packageLimit {
			out = append(out, problem{folder, fmt.Sprintf("package has %d lines, limit %d", n, packageLimit), whySize})
		}
	}
	return out
}

// wide lists the interfaces that may have more methods, each with its reason.
var wide = map[string]string{
	"vault/store.Store": "put, get, list and delete are what a place for objects is; taking one away leaves something nobody can use",
}

func narrowInterfaces(t *tree) (out []problem) {
	for _, s := range t.shipped() {
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			face, ok := spec.Type.(*ast.InterfaceType)
			if !ok {
				return true
			}
			count := 0
			for _, m := range face.Methods.List {
				count += max(1, len(m.Names))
			}
			if _, allowed := wide[s.folder+"."+spec.Name.Name]; count > methodLimit && !allowed {
				out = append(out, problem{t.at(spec), fmt.Sprintf("interface %s has %d methods, limit %d", spec.Name.Name, count, methodLimit),
					"a narrow interface can be faked in a test and implemented twice; if this one cannot be split, enter it in the table wide with its reason"})
			}
			return true
		})
	}
	return out
}

func packageComments(t *tree) (out []problem) {
	comment := map[string]string{}
	for _, s := range t.shipped() {
		comment[s.folder] += s.syntax.Doc.Text()
	}
	for _, s := range t.shipped() {
		text, seen := comment[s.folder]
		if !seen {
			continue // reported with an earlier file of the folder
		}
		delete(comment, s.folder)
		start := "Package " + s.syntax.Name.Name + " "
		if s.syntax.Name.Name == "main" {
			start = "Command " + path.Base(s.folder) + " "
		}
		if !strings.HasPrefix(text, start) || len(text) < 200 {
			out = append(out, problem{s.folder, fmt.Sprintf("package comment is missing, shorter than 200 characters, or does not begin %q", start),
				"the package comment is the first page of a book: what it is, what to call first, its words, its guarantees, what it is not"})
		}
	}
	return out
}

func folderNames(t *tree) (out []problem) {
	drawers := []string{"util", "utils", "common", "base", "internal", "helper", "helpers", "misc", "shared", "lib", "types"}
	for _, s := range t.sources {
		names := append(strings.Split(s.folder, "/"), strings.TrimSuffix(s.syntax.Name.Name, "_test"))
		for _, name := range names {
			if slices.Contains(drawers, name) {
				out = append(out, problem{s.path, "package or folder is called " + name,
					"a drawer has no border and grows for ever: what is used once stays where it is used, what is used twice gets a noun"})
			}
		}
	}
	return out
}

func noInit(t *tree) (out []problem) {
	for _, s := range t.sources {
		for _, d := range s.syntax.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				out = append(out, problem{t.at(d), "init function", "what runs on import cannot be ordered, given arguments or tested; tables are passed from cmd"})
			}
		}
	}
	return out
}

// firstWords are those that say only that an error is an error.
var firstWords = []string{"failed", "failure", "cannot", "can't", "could", "couldn't", "unable", "error", "err"}

func errorStrings(t *tree) (out []problem) {
	calls(t, t.shipped(), func(s source, call *ast.CallExpr, name string) {
		if name != "errors.New" && name != "fmt.Errorf" || len(call.Args) == 0 {
			return
		}
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return
		}
		text, _ := strconv.Unquote(literal.Value)
		if what := errorFault(text); what != "" {
			out = append(out, problem{t.at(call), fmt.Sprintf("error %q %s", text, what),
				"an error reads as operation, object, cause (\"open parent X: ...\"), wrapped many times over; the first word must carry something"})
		}
	})
	return out
}

// errorFault says what is wrong with the wording of an error, or nothing.
// A capital is allowed in words that are not written without one: those with a
// digit or a second capital (VHDX, Argon2id).
func errorFault(text string) string {
	if text == "" {
		return "is empty"
	}
	first, _, _ := strings.Cut(text, " ")
	first = strings.TrimRight(first, ":,")
	if slices.Contains(firstWords, strings.ToLower(first)) {
		return "begins with " + first
	}
	r, size := utf8.DecodeRuneInString(first)
	if unicode.IsUpper(r) && !strings.ContainsFunc(first[size:], func(r rune) bool { return unicode.IsUpper(r) || unicode.IsDigit(r) }) {
		return "begins with a capital"
	}
	if strings.HasSuffix(text, ".") || strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "!") {
		return "ends like a sentence"
	}
	return ""
}

func panics(t *tree) (out []problem) {
	calls(t, t.shipped(), func(s source, call *ast.CallExpr, name string) {
		if name != "panic" || len(call.Args) != 1 {
			return
		}
		found := false
		ast.Inspect(call.Args[0], func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && strings.HasPrefix(strings.Trim(l.Value, "\"`"), s.syntax.Name.Name+": internal error: ") {
				found = true
			}
			return true
		})
		if !found {
			out = append(out, problem{t.at(call), "panic without the text \"" + s.syntax.Name.Name + ": internal error: ...\"",
				"input never panics; a panic is a broken promise inside the package, and its text says so"})
		}
	})
	return out
}

// clockless are the packages whose results must not depend on when they run.
var clockless = []string{"id", "chunk", "vdisk", "events", "catalog"}

func clockIsAnArgument(t *tree) (out []problem) {
	calls(t, t.shipped(), func(s source, call *ast.CallExpr, name string) {
		if (name == "time.Now" || name == "time.Since") && under(s.folder, clockless) {
			out = append(out, problem{t.at(call), "call of " + name, "where time is data it is an argument, so that a replay, and a test, has the same one"})
		}
	})
	return out
}

func finished(t *tree) (out []problem) {
	for _, s := range t.sources {
		for _, group := range s.syntax.Comments {
			for _, c := range group.List {
				for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"} {
					if strings.Contains(c.Text, word) {
						out = append(out, problem{t.at(c), "comment with " + word, "what is missing is an issue or is said in a report; the tree holds what works"})
					}
				}
			}
		}
	}
	return out
}

// calls visits each call of a plain function or of a package's function, with
// its name as written ("panic", "errors.New").
func calls(t *tree, in []source, visit func(s source, call *ast.CallExpr, name string)) {
	for _, s := range in {
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch f := call.Fun.(type) {
			case *ast.Ident:
				visit(s, call, f.Name)
			case *ast.SelectorExpr:
				if x, ok := f.X.(*ast.Ident); ok {
					visit(s, call, x.Name+"."+f.Sel.Name)
				}
			}
			return true
		})
	}
}
