// Package selection says which guests a backup set protects, and why.
//
// A set is a fact, [events.SetDefined]. [Parse] checks one and gives a [Definition],
// which [Definition.Resolve] holds against what the sources of the set list at this
// moment; the answer is another fact, [events.GuestsSelected], and what to do about
// it is the caller's. [Tell] writes that fact in sentences.
//
// # Words
//
// A *source* is a place that lists guests, a *candidate* a guest it listed. A
// *selector* is name:GLOB, tag:TAG or id:UUID. In a glob * stands for any text and ? for
// one character, whatever they are; everything else, the case of letters too, stands for
// itself. A set protects the candidates that one of its selectors takes, all if it has
// none, without those that one of its excludes takes. Disks of them are chosen in the
// same way, by globs of their keys.
//
// # Guarantees
//
// Nothing is resolved before it is asked for, and resolving reads nothing: equal
// definitions and candidates give equal answers. A candidate that could not be looked at
// is never passed over unless what is known of it settles that the set does not mean it.
// A definition is foreign, as all facts are: every part of it is bounded by Parse, and
// the time a glob takes by the product of its length and the text's.
//
// The package does no I/O and knows no driver.
package selection
