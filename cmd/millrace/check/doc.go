// Package check holds the verb verify.
//
// A verification finds out what cannot be read, looks a second time at what it has
// found (package heal), and writes down what stands: chunks are withdrawn, so that the next
// backup stores them again, and every point that needs one is marked, asked for or not.
// It is a job of its own in the ledger, in one segment, so that audit show tells of it.
//
// Of a vault that cannot be written to all is told all the same; the facts wait in the
// outbox, see session.App.Record.
package check
