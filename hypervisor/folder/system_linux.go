package folder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// leaseSignals are what tells that a lease is wanted back.
func leaseSignals() []os.Signal { return []os.Signal{unix.SIGIO} }

// control calls fn with the file's descriptor and returns its error.
func control(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// takeLease takes a read lease and returns "", or why there is none.
func takeLease(f *os.File) string {
	err := control(f, func(fd int) error {
		// The signal goes to the process. Left alone, the kernel would send it
		// to the thread that is asking here, which may end.
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETOWN, os.Getpid()); err != nil {
			return err
		}
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	})
	switch {
	case err == nil:
		return ""
	case errors.Is(err, unix.EAGAIN):
		return "open for writing"
	case errors.Is(err, unix.EACCES):
		return "no lease, the file belongs to another user"
	case errors.Is(err, unix.EINVAL):
		return "no lease on this kind of file or file system"
	}
	return fmt.Sprintf("no lease: %v", err)
}

// leaseHeld reports whether the lease is in force and nobody waits for its end.
func leaseHeld(f *os.File) bool {
	held := false
	err := control(f, func(fd int) error {
		kind, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0)
		held = kind == unix.F_RDLCK
		return err
	})
	return err == nil && held
}

// dropLease ends the lease. It fails when there is none any more, which is as well.
func dropLease(f *os.File) {
	_ = control(f, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
		return err
	})
}

// stampOf returns the stamp of an open file.
func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return stamp{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	s := stamp{Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		// The inode is a name in /dev; the times are that name's.
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return stamp{}, err
		}
		return stamp{Device: uint64(st.Rdev), Size: size}, nil
	}
	return s, nil
}

// flushFile writes the file's dirty pages back, so that they are clean, and
// brings its stamps up to date.
func flushFile(f *os.File) error {
	err := control(f, unix.Fsync)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS) {
		return nil // nothing that could be dirty
	}
	if err != nil {
		return &os.PathError{Op: "fsync", Path: f.Name(), Err: err}
	}
	return nil
}

// youth is how long to wait until the file's last change has the given age. The
// clock is the one that stamps files. A change in the future is another
// machine's or from before the clock was set back; the next will differ.
func youth(s stamp, wanted time.Duration) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
		return 0
	}
	age := time.Duration(now.Nano() - max(s.CTime, s.MTime))
	if age < 0 || age >= wanted {
		return 0
	}
	return wanted - age
}

// stampsEveryWrite reports whether the file system is known to move ctime when
// a clean page is first written through a memory map. tmpfs has no clean pages,
// and on network file systems another host may write.
func stampsEveryWrite(f *os.File) bool {
	var st unix.Stat_t
	var on unix.Statfs_t
	err := control(f, func(fd int) error {
		return errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &on))
	})
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	switch int64(on.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return true
	}
	return false
}
