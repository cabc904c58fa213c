//go:build !race

package vdisktest

const raceEnabled = false
