// Command testreport turns the output of "go test -json" into what a person
// wants to see of it.
//
// It prints the closing line of each package as it comes, all that a failed
// test said, and at the end every skipped test with its reason: a test that did
// not run proves nothing, and go test itself is silent about it. It reads
// stdin, writes stdout and exits 1 if anything failed or no test ran. Lines
// that are not JSON (messages of the go command) are passed on as they are.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	ok, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

// event is one line of test2json; see "go doc test2json".
type event struct {
	Action, Package, ImportPath, Test, Output string
}

// report copies what matters from in to out and says whether all went well.
func report(in io.Reader, out io.Writer) (bool, error) {
	said := map[string][]string{} // by package and test, until it is known how it ended
	var skipped []string
	var passed, failed int
	var broken bool
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if e.Test == "" && closing(e.Output) || e.Action == "build-output" {
				fmt.Fprint(out, e.Output)
				continue
			}
			said[key] = append(said[key], e.Output)
		case "pass":
			if e.Test != "" {
				passed++
			}
			delete(said, key)
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, key+": "+reason(said[key]))
			}
			delete(said, key)
		case "fail", "build-fail":
			broken = true
			if e.Test != "" {
				failed++
			}
			fmt.Fprint(out, strings.Join(said[key], ""))
			delete(said, key)
		}
	}
	if len(skipped) > 0 {
		slices.Sort(skipped)
		fmt.Fprintf(out, "\nskipped:\n  %s\n", strings.Join(skipped, "\n  "))
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", passed, failed, len(skipped))
	return !broken && passed > 0, lines.Err()
}

// closing reports whether a package's line is its verdict.
func closing(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t")
}

// reason picks the message of t.Skip out of what a test said: its last line
// that is not go test's own.
func reason(said []string) string {
	for _, line := range slices.Backward(said) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}
