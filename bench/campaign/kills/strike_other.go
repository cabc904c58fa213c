//go:build !linux

package kills

import (
	"context"
	"errors"

	"github.com/millrace-backup/millrace/bench/campaign/rig"
)

type strike struct {
	hit     bool
	what    string
	stopped int
	err     error
}

func (strike) release() {}

type sight struct{}

func look(*rig.Place, int) sight { return sight{} }

func watched(context.Context, *rig.Place, string) (course, error) {
	return course{}, errors.New("processes are watched on Linux only")
}

func (r *run) strike(context.Context, *rig.Process, sight) strike {
	return strike{err: errors.New("processes are killed on Linux only")}
}
