package nbd

import (
	"errors"
	"fmt"
)

// Bounds of what a peer may send.
const (
	maxOptionReply = 64 << 10
	maxReplies     = 64 // to one option
	maxChunks      = 1 << 16
	maxExtents     = 1 << 20 // in one reply
	maxError       = 4 << 10
	maxName        = 4096
	maxContexts    = 32
	maxRequest     = 32 << 20 // of ours, where the server sets no limit
	maxMinBlock    = 64 << 10
)

// Flags are what an export can do.
type Flags uint16

// The flags of an export.
const (
	HasFlags     Flags = 1 << iota
	ReadOnly           // no writing
	CanFlush           // [Client.Flush]
	CanFUA             // [FUA]
	Rotational         // it wants to be read in order
	CanTrim            // [Client.Trim]
	CanZero            // [Client.WriteZeroes]
	CanStayWhole       // not used
	CanMultiConn       // several connections see the same
	CanResize          // experimental, not used
	CanCache           // not used
	CanFastZero        // [FastZero]
)

// ErrProtocol says that the server does not keep to the protocol.
var ErrProtocol = errors.New("the server does not speak NBD as it must")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Errno is an error number of the protocol, the same on every system. It is found with
// errors.Is and errors.As.
type Errno uint32

// The numbers that the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "the server has no memory"
	case EINVAL:
		return "refused as invalid"
	case ENOSPC:
		return "no space left"
	case EOVERFLOW:
		return "too large"
	case ENOTSUP:
		return "not supported"
	case ESHUTDOWN:
		return "the server is shutting down"
	}
	return fmt.Sprintf("error %d", uint32(e))
}
