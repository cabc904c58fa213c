//go:build !linux

package restore

import "testing"

func checkHoles(t *testing.T, _ string, _ []byte) { t.Log("no block count here") }
