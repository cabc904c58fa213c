// Package rundirect disturbs guests that run straight from their backups: it kills what serves
// them, what moves them and QEMU itself, takes the vault away and fills the disk that their
// writes go to, and sees whether what they had synced is there.
//
// A trial starts a small Linux guest in a real QEMU from a point in a vault, as millrace run
// start does. In the guest a loop makes files of random size, syncs, and says on the serial
// port which file with which SHA-256 is safe now, and before it removes an old one, that it
// will. While it serves, while millrace run finalize copies, or when that switches the
// guest over, one thing is done to it: see strikes.
//
// # What passes
//
// A guest whose QEMU was not killed goes on, without being told of an error, within a time that
// fits; where somebody has to help, millrace run resume does (after the supervisor or QEMU was
// killed), or cont after the disk was full. One whose QEMU was killed starts again. Then every
// file that was said to be safe has its sum. The run is brought to an end in one of three
// ways: at home, where the file system is whole and has the same files; as a new point, which
// restores to such a disk; or thrown away. The point it began at is unchanged
// (verify --read-data), and nothing of the run is left.
package rundirect

import (
	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

// Campaign is this campaign.
func Campaign() trial.Campaign {
	return trial.Campaign{
		Name: "rundirect", Count: 200,
		About: "A trial runs a Linux guest straight from its backup, has it write files and say which are synced, and, while it is served, copied home or switched over, kills what serves it, its supervisor, the\n" +
			"move, QEMU or all of them, stops the stage, takes the vault away, or fills the overlay's disk. It passes if the guest goes on or is resumed with every synced file, its file system is whole at home\n" +
			"or in a new point, and the point it began at is unchanged.",
		Open: open,
	}
}
