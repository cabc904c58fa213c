//go:build race

package vdisktest

const raceEnabled = true
