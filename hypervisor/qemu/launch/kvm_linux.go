package launch

import "os"

// usableKVM reports whether guests can run on the processor itself.
func usableKVM() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}
