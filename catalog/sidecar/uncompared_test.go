package sidecar

import "testing"

func TestFewNames(t *testing.T) {
	for want, names := range map[string][]string{"a": {"a"}, "a, b, c": {"a", "b", "c"}, "a, b, c and 2 more": {"a", "b", "c", "d", "e"}} {
		if got := few(names); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
