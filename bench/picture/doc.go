// Package picture draws what the benchmark has measured, as SVG: [Curves] for how
// something grows with something, with the range of each point, and [Stacks] for what
// something is made of. They are thin over gonum.org/v1/plot, which no other
// package knows.
//
// A picture depends on its arguments alone. Text in it is text, so that it can be
// searched.
package picture
