package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name, in string
		ok       bool
		want     []string
		never    string
	}{
		{"a failure is shown whole and a skip with its reason", `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: seven is not eight\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:9: qemu-img is not installed\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}`, false,
			[]string{"seven is not eight", "p TestB: b_test.go:9: qemu-img is not installed", "FAIL\tp", "1 passed, 1 failed, 1 skipped"}, "chatter"},
		{"all well", `{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}`, true, []string{"ok  \tp", "1 passed, 0 failed, 0 skipped"}, "skipped:"},
		{"no test at all", `{"Action":"skip","Package":"p"}`, false, []string{"0 passed"}, "skipped:"},
		{"a package that does not build", `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"pass","Package":"q","Test":"TestC"}`, false, []string{"p.go:1: syntax error"}, "skipped:"},
		{"a crash outside any test", `{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Output":"panic: out of cheese\n"}
{"Action":"fail","Package":"p"}`, false, []string{"out of cheese"}, "skipped:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := report(strings.NewReader(c.in), &out)
			if err != nil || ok != c.ok {
				t.Errorf("got %v, %v; want %v", ok, err, c.ok)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing from\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), c.never) {
				t.Errorf("%q is in\n%s", c.never, out.String())
			}
		})
	}
}
