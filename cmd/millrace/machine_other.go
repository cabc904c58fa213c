//go:build !linux

package main

// machineMemory is how many bytes of memory this machine has; 0: not known.
func machineMemory() uint64 { return 0 }
