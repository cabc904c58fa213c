package patient

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// away lists what the system says of a place that cannot be reached.
func away() []syscall.Errno {
	return []syscall.Errno{
		windows.ERROR_BAD_NETPATH, windows.ERROR_NETNAME_DELETED, windows.ERROR_BAD_NET_NAME, windows.ERROR_UNEXP_NET_ERR, windows.ERROR_DEV_NOT_EXIST,
		windows.ERROR_NOT_READY, windows.ERROR_DEVICE_NOT_CONNECTED, windows.ERROR_NETWORK_UNREACHABLE, windows.ERROR_HOST_UNREACHABLE,
		windows.ERROR_CONNECTION_ABORTED, windows.ERROR_NO_SUCH_DEVICE,
	}
}

// failing lists what it says of a place that is there and does not do its work.
func failing() []syscall.Errno {
	return []syscall.Errno{
		windows.ERROR_IO_DEVICE, windows.ERROR_CRC, windows.ERROR_SEM_TIMEOUT, windows.ERROR_READ_FAULT, windows.ERROR_WRITE_FAULT, windows.ERROR_BUSY,
		windows.ERROR_GEN_FAILURE,
	}
}
