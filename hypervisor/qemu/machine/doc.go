// Package machine says in our words what a running QEMU says in its own: which disks its
// guest has ([Monitor.Disks]), how it is configured ([Monitor.Describe]), where its agent
// is ([Monitor.AgentSocket]), and what a backup has put into it.
//
// A [Monitor] is a conversation over package qmp. What QEMU answers is trusted to be
// what QEMU knows, not more: sizes are bounded, and what a device does not tell has a
// default or stays out.
//
// Everything that a backup makes in QEMU has a name that begins with [Ours] and the tag of
// the job. The functions that remove such things touch nothing else, can be called again,
// and after any part of what they do.
package machine
