//go:build !linux

package raw

import "os"

func seekData(*os.File, int64) (int64, error) { return 0, errNoMap }
func seekHole(*os.File, int64) (int64, error) { return 0, errNoMap }
