//go:build !linux

package arena

import "testing"

func reopen(t testing.TB, _ *Arena) *Arena {
	t.Helper()
	t.Skip("a second handle on an arena is made by dup, which this system does not have")
	return nil
}
