// Package rules holds the repository to its own rules. It has tests only.
//
// Run "go test ./rules". Each failure names the file and line, the rule, and
// the reason for the rule, so that whoever breaks one can decide whether the
// code or the rule is wrong. A rule is changed in the table that states it
// (imports_test.go, code_test.go, files_test.go), in the same commit as what
// needs the change, and with its reason.
//
// The words: a tier is one level of the import order in ARCHITECTURE.md, and
// code may import only its own tier and those below. Shipped code is every Go
// file outside tests and testdata; tests are held to fewer rules, since they
// may look at anything to prove it right. A nested module (a folder with its
// own go.mod) is outside all the rules about Go code.
//
// Everything is read with go/parser from the files as they lie in the tree,
// committed or not; nothing is built, and no tool but git is asked.
package rules
