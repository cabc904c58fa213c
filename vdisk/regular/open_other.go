//go:build !unix

package regular

// NoWait is a flag for os.OpenFile with which opening a pipe does not wait; here no file
// system has pipes.
const NoWait = 0

func isSocket(error) bool { return false }
