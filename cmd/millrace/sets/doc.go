// Package sets holds the verbs of backup sets: set add, list, show and remove.
//
// A set is a fact of the vault it backs up to, so it is wherever the vault is, has a
// history, and an older one can be looked at with --at. What it means is said by package
// selection; which guests that are at the moment is found by cmd/millrace/guests, when a
// backup begins and for set show --resolve. Removing a set removes no point.
//
// What the commands print as JSON is a promise: scripts rely on its keys.
package sets
