//go:build unix

package patient

import "syscall"

// away lists what the system says of a place that cannot be reached.
func away() []syscall.Errno {
	return []syscall.Errno{
		syscall.ESTALE, syscall.ENOTCONN, syscall.ENODEV, syscall.ENXIO, syscall.ETIMEDOUT, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.ENETRESET,
		syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
	}
}

// failing lists what it says of a place that is there and does not do its work.
func failing() []syscall.Errno {
	return []syscall.Errno{syscall.EIO, syscall.EAGAIN, syscall.EINTR, syscall.EBUSY, syscall.ENFILE, syscall.ENOLCK}
}
