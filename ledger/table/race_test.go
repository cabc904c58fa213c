//go:build race

package table

// slow is how many times longer things may take under the race detector.
const slow = 10
