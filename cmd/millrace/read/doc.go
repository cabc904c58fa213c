// Package read holds the verbs that read a vault: points, show, restore and
// recover.
//
// Each function returns the command for one verb, bound to the App of the command
// line. What they print is a promise: the JSON keys are those that scripts rely
// on, the tables are for people and may change.
//
// None of them needs permission to write to the vault; what restore
// did is recorded where that is possible, see session.App.Record.
package read
