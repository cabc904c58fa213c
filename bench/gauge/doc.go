// Package gauge has what the measurements of this repository have in common: what
// the machine is, what a program took, and what several runs of one thing come to.
//
// [Here] describes the machine, so that nobody reads a figure without it. [Run] runs a
// program to its end and says what it and all its children took; [Spent] does the
// same for a function of this process. [Warm] brings a file into the page cache,
// [Of] makes a [Spread] (median, least, most) of the figures of several runs, and
// [Table] prints rows as Markdown. [Program] is a Millrace with a vault of its own.
//
// Times are in seconds, sizes in bytes, rates in MiB per second, processor time in
// seconds, per GiB where that is said. Processor time is what the kernel accounts to
// the process and to the children that it waited for, user and system together.
// Figures are taken on Linux only; elsewhere the package builds and says so.
package gauge
