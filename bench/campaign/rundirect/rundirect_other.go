//go:build !linux

package rundirect

import (
	"context"
	"errors"

	"github.com/millrace-backup/millrace/bench/campaign/trial"
)

func open(context.Context, trial.Env) (trial.Bench, error) {
	return nil, errors.New("this campaign needs Linux")
}
