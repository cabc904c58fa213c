//go:build !race

package table

// slow is how many times longer things may take without the race detector.
const slow = 1
