// Package lease tells a job that lives from one that died, without a clock that
// two hosts would have to agree on.
//
// A job that runs writes *heartbeats*: objects leases/<job>/<n> with n = 1, 2, 3
// ... every [Times.Beat], each put with PutNew ([Hold]). Whoever wants to know
// whether it lives looks at the highest number ([Newest]) again and again and
// tells a [Watch] what it saw: a number that grows is a life sign; one that stays
// for [Times.Silence], by the looker's own monotonic clock, is a death. Nobody
// reads a time that somebody else wrote.
//
// A claim is what JobStarted says, and lasts until its job ends. A job that leaves one
// of its guests to an earlier one keeps its claim on it: a third job may then be told
// to wait for one that does not have the guest. That costs it a try and no data, and a
// fact that gives a claim up would have to be seen by everybody who looks.
//
// Being wrong costs a job and no data. A death is only ever acted upon by a
// JobFenced in the ledger, and a fenced job can append nothing any more (package
// ledger, Guard): one that was merely paused, or cut off from the vault, wakes
// up, finds the fence at its next append and stops. So heartbeats need to be
// neither sealed nor true, only rarely late.
//
// A crash between two heartbeats leaves the last one; the job that takes over
// removes it, or the next one that starts ([Sweep]). Where deleting is not allowed
// they stay and mean nothing.
//
// The form is docs/format/lease.md. The package does no ledger work: package
// conductor decides who holds which guest.
package lease
