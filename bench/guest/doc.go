// Package guest builds a small bootable Linux disk and boots it, so that a test
// can ask the only question that counts of a restored disk: does it start?
//
// [Build] makes the disk: an MBR, a FAT boot partition and an ext4 root with
// real files of the caller's choice in /srv. It needs no root and mounts
// nothing; build.sh in this folder is the recipe and runs by itself too. [Boot]
// starts it under QEMU in software emulation, waits until the guest says
// GUEST-READY on its serial port, turns it off and returns what it said: how
// often this disk has booted, and the SHA-256 over all its files in /srv, as
// the guest itself read them.
//
// [Run] starts a guest and leaves it running: a [Machine] has a shell on its serial port
// ([Machine.Shell]), the socket of its QMP, and the guest agent if it was made with one
// ([BuildWithAgent]). It can be reset, turned off and started again.
//
// Booting writes to the image (the count of boots, the journal), as a day of
// work would; who wants to keep an image as it is boots a copy. When Boot
// returns, its QEMU has ended, whatever the outcome, and the image is closed.
// Both may run many times in parallel on different images. No other process is
// touched.
//
// Where a program or file is absent the error wraps [ErrMissing] and names the
// Debian package, so that a test can skip with that message. The kernel package
// is fetched with apt-get on first use and kept in the user's cache folder.
package guest
