// Command running measures backups of running guests, with a real QEMU: what an increment
// by dirty bitmaps takes and stores beside a full backup, what a job takes when nothing has
// changed on a huge disk, what a guest that writes all the time feels of a backup into a
// slow vault, and for how long guests are frozen.
//
// Increments: a disk of 100 GiB holds noise, or the files of a folder, in regions spread
// evenly over it. Before each increment a hundredth of the data's blocks of 4 KiB is
// overwritten with noise, scattered. That goes through QEMU, by NBD (it has no system in
// it, and a qemu-io line a write would take a minute for each increment). What the vault
// grows by is all of it, packs, tables, ledger and checkpoints; noise is not compressed.
// The last point of each series is restored and compared with the disk.
//
// Load: a Linux of package guest with a program that writes 4 KiB at random places of a
// second disk of 1 GiB, four at a time, past its page cache, before, while and after a full
// backup is made. Its processor is emulated, so that it takes a core for itself, and its
// own work is most of what a write takes: some 10,000 a second on an idle machine. Its
// images are in the host's page cache, as QEMU has them by default, so that copying before
// a write costs memory bandwidth and not a disk's time.
//
// Freeze: four disks, two raw and two qcow2, with 64 MiB each written just before, that
// are in the host's page cache, and one that is written to meanwhile.
package main
