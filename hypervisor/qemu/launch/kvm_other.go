//go:build !linux

package launch

func usableKVM() bool { return false }
