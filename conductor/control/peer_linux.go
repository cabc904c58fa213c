package control

import (
	"net"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// peer is the name of the user at the other end, as the system knows it, and
// whether it may give orders: the job's own user may, and root.
func peer(c *net.UnixConn) (name string, may bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", false
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return "", false
	}
	name = "uid " + strconv.Itoa(int(cred.Uid))
	if known := named(cred.Uid, user.LookupId); known != "" {
		name = known
	}
	return name, cred.Uid == 0 || int(cred.Uid) == os.Geteuid()
}

// nameIn is how long a directory of users may take to say a name.
const nameIn = time.Second

// named is the name of a user; "" if nobody knows it, or does not say so in time: the
// directory may be a server that is away, and who asks must not wait for that.
func named(uid uint32, lookUp func(string) (*user.User, error)) string {
	name := make(chan string, 1)
	go func() {
		if u, err := lookUp(strconv.Itoa(int(uid))); err == nil {
			name <- u.Username
		} else {
			name <- ""
		}
	}()
	select {
	case n := <-name:
		return n
	case <-time.After(nameIn):
		return ""
	}
}
