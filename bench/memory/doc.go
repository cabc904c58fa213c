// Command memory measures how much memory a backup takes: the anonymous and shared memory
// of all its processes together, shared memory counted once.
//
//	go run ./bench/memory -millrace ./millrace -virtual 64GiB -data 8GiB
//	go run ./bench/memory -millrace ./millrace -virtual 16TiB -every 64MiB
//	go run ./bench/memory -chunks 16000000
//
// The third measures the chunk index alone: how long it takes to make, how much
// memory and disk, and how quickly several processes look up in it at once.
//
// It makes a raw image (-data bytes of half compressible content at its start, or a
// block of 4 KiB in every -every bytes), backs it up twice into a new vault, changes
// a hundredth of it before the second time, restores the second point, verifies, and
// compares. While each command runs, its process and all below it are looked at many
// times a second.
//
// Anonymous memory is Pss_Anon of /proc/PID/smaps_rollup. Shared memory is what
// the memfds that the processes have open hold, each once, mapped or not; it is
// more than any process shows as its own. Page cache is not counted: it is given
// back when somebody needs the memory. Linux only.
package main
