//go:build !linux

package running

import "github.com/millrace-backup/millrace/bench/campaign/rig"

// strike is something that is done to a backup. Here nothing can be.
type strike struct {
	name          string
	fills, frozen bool
	before        func(*course)
	do            func(*course, *rig.Process) (string, error)
}

func strikes() []strike { return nil }
