// Package qemu is the driver for guests that run in QEMU, through the machine protocol
// (QMP) of their process.
//
// Call [New] with the path of a QMP socket, then Inspect. One socket is one guest. Its
// id is the UUID that QEMU was given, or, without one, made from the vault and the
// socket's path. Its disks are the devices that have a writable medium, by the name of
// their drive or device; what is read-only, empty, or of no device is listed as
// unprotected. What is to be known to define the guest again is in Guest.Config, as a
// [Configuration].
//
// # The instant
//
// Freeze puts a filter before every disk that copies what the guest is about to
// overwrite to a fleecing file (copy-before-write), and reads the past through it
// (snapshot-access). Guest writes wait for that local copy and never for the vault. The
// fleecing file has no name: it is ours, unlinked, and handed to QEMU as an open
// file, so it is gone when QEMU lets go of it, whatever becomes of us. When it is full
// or too slow the view breaks, not the guest: reading fails then, and with it the
// backup of this guest.
//
// All filters go in while the guest is paused ("stop", "cont"), a few milliseconds, so
// that all disks show one instant. If its agent answers, the guest's file systems are
// frozen around that. Both are limited in time, and [Guard], a process of its own that
// outlives us, undoes them if we do not.
//
// # What has changed
//
// A tracking bitmap on a disk's node, named in the point's token, records writes from
// the instant of the point on; where the image is qcow2 it is kept in the image, and
// survives a proper end of QEMU. At the instant of the next job its bits are
// copied aside, a new bitmap begins, and both record until the new point is committed:
// then the old one goes. If the job fails the new one goes, and nothing is lost.
// A bitmap that is not there, does not record, or was not saved properly makes the disk
// one that is scanned, and says so. So does an image with snapshots inside: going back
// to one is not seen by any bitmap.
//
// # What is left in QEMU
//
// Everything we make is named millrace-, and but for one bitmap for each disk and vault
// goes at the end. Freeze begins with removing what is left of jobs that are dead, and
// [Guard] does so when a conductor dies.
//
// It needs QEMU 7.1 or later, on Linux, on the same host.
package qemu
