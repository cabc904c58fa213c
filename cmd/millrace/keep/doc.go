// Package keep holds the verbs that decide what a vault keeps: pin, unpin, forget
// and prune.
//
// Each function returns the command for one verb, bound to the App of the command
// line. What they print is a promise: the JSON keys are those that scripts rely
// on, the tables are for people and may change.
//
// What they decide they decide on the state of the vault at one position, and it
// stands only if nobody has said anything before it that would have changed the
// decision; else they decide again. Every one that takes something away has
// --dry-run.
package keep
