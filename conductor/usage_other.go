//go:build !unix

package conductor

import "os"

// maxRSS is not to be had from a process that has ended on this system.
func maxRSS(*os.ProcessState) int64 { return 0 }
